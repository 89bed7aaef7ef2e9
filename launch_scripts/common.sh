# Shared by the scripts of this folder: where things are, how the ranks start, what an exit code means. Sourced, not run.
# shellcheck shell=bash
# Every value can be set in the environment of sbatch; those marked EDIT are a site's.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  echo "error: common.sh is a part of the job scripts; submit with: sbatch launch_scripts/distill.sbatch CONFIG" >&2
  exit 2
fi

PROJECT="${PROJECT:-${SLURM_SUBMIT_DIR:-$PWD}}"          # the folder that holds train.py; submit from there
VENV="${VENV:-$PROJECT/.venv}"                           # EDIT: the Python environment (made by `make setup`), on a shared file system
LAUNCHER="${LAUNCHER:-srun}"                             # srun: one task a GPU, any number of nodes | torchrun: one node, one task
CONTAINER="${CONTAINER:-none}"                           # EDIT: none | apptainer | pyxis
IMAGE="${IMAGE:-$PROJECT/metaprompt.sif}"                # of apptainer a .sif file, of pyxis a .sqsh file or a registry's name
LOCAL_DISK="${LOCAL_DISK:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}"  # EDIT: a node's own disk
USER="${USER:-$(id -un)}"
STAGE_WEIGHTS="${STAGE_WEIGHTS:-}"                       # a backbone's folder to copy to each node's own disk first; WEIGHTS then points there
MAX_RESTARTS="${MAX_RESTARTS:-20}"                       # a job is requeued so often at most
JOB_PORT="${JOB_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}"  # where rank 0 listens

# sbatch hands on the whole environment of the shell that submits: what a launcher left there is not this job's
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE
unset ROLE_NAME MASTER_ADDR MASTER_PORT "${!TORCHELASTIC_@}" "${!PET_@}"
[ "${METAPROMPT_CORE_DUMPS:-}" = 1 ] || ulimit -c 0      # a process's memory holds note text

# NCCL finds its own way on most clusters. Offered, not forced:
# export NCCL_SOCKET_IFNAME=ib0      # the interface of the first handshake, where the default one is slow or fenced off
# export NCCL_IB_HCA=mlx5            # which InfiniBand adapters
# export NCCL_DEBUG=WARN             # or INFO, when ranks do not find one another

end_if_wrong() {  # problems, a line each: exit code 2 where there are any
  [ -n "$1" ] || return 0
  echo "error: ${1//$'\n'/$'\nerror: '}" >&2
  exit 2
}

python_problem() {
  [ -x "$VENV/bin/python" ] || echo "VENV: $VENV/bin/python does not exist; run \`make setup\`, or name another"
}

is_count() {  # text, least
  [[ "$1" =~ ^[0-9]{1,9}$ ]] && [ "$((10#$1))" -ge "$2" ]
}

image_problem() {
  case "$CONTAINER:$IMAGE" in
    apptainer:*://*) return 0 ;;                          # of a registry
    pyxis:/* | pyxis:./* | pyxis:*.sqsh | apptainer:*) ;;  # a file, or of apptainer a folder
    *) return 0 ;;
  esac
  [ -e "$IMAGE" ] || echo "IMAGE: $IMAGE does not exist; build it (docs/how_to/slurm.md, Use a container), or name another"
}

# what is wrong with the values above, a line each; told before ranks start
settings_problems() (
  [ -f "$PROJECT/train.py" ] || echo "PROJECT: $PROJECT holds no train.py; submit from the folder that does"
  cd "$PROJECT" 2>/dev/null || true  # as the ranks do: other paths may be relative
  case "$LAUNCHER" in
    srun) ;;
    torchrun)
      if [ "${SLURM_NNODES:-1}" -gt 1 ]; then
        echo "LAUNCHER=torchrun runs one node; the job has $SLURM_NNODES; use LAUNCHER=srun"
      fi ;;
    *) echo "LAUNCHER: must be one of srun, torchrun; got '$LAUNCHER'" ;;
  esac
  case "$CONTAINER" in
    none) python_problem ;;
    apptainer | pyxis) image_problem ;;
    *) echo "CONTAINER: must be one of none, apptainer, pyxis; got '$CONTAINER'" ;;
  esac
  [ -z "$STAGE_WEIGHTS" ] || [ -d "$STAGE_WEIGHTS" ] || echo "STAGE_WEIGHTS: $STAGE_WEIGHTS is not a folder; name a backbone's"
  is_count "$MAX_RESTARTS" 0 || echo "MAX_RESTARTS: must be a whole number >= 0; got '$MAX_RESTARTS'"
  is_count "$JOB_PORT" 1 && [ "$((10#$JOB_PORT))" -le 65535 ] || echo "JOB_PORT: must be a port, 1 to 65535; got '$JOB_PORT'"
)

job_problems() {  # what else is wrong with a script's variables, a line each; a script that has some replaces this
  :
}

# the first call of a job script. Ends with 0 after --help, and with 2 where the job cannot start
begin_job() {  # the script and what it takes, as its usage says; the script's arguments …
  local usage="sbatch launch_scripts/$1" word
  shift
  for word; do
    if [ "$word" = --help ] || [ "$word" = -h ]; then
      echo "usage: $usage"
      sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$0"
      exit 0
    fi
  done
  [ -n "${SLURM_JOB_ID:-}" ] || end_if_wrong "submit with: $usage"
  case "${1:-}" in
    "" | -*) echo "usage: $usage" >&2; exit 2 ;;
  esac
  end_if_wrong "$(settings_problems; cd "$PROJECT" 2>/dev/null || true; job_problems)"
  cd "$PROJECT" || exit 2
  JOB="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}"
  JOB="${JOB:-$SLURM_JOB_ID}"
  trap : USR1  # meant for the ranks; sent to all of a job (scancel -f), it must not end this shell
  # ranks find one another by what SLURM knows: no host file, no ssh, no MPI
  MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)"
  MASTER_PORT="$JOB_PORT"
  export MASTER_ADDR MASTER_PORT
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
  # nothing goes out, nothing lands in a home folder; what is compiled at run time lies on the node's own disk
  export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1
  KERNELS="$LOCAL_DISK/triton-$USER"
  export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$KERNELS}"
  BUILT_IN_PROJECT="$PROJECT/.cache/torch_extensions"
  # compiled before the job (make setup, pipeline.sh); copied to each node
  BUILT="${TORCH_EXTENSIONS_DIR:-$BUILT_IN_PROJECT}"
  export TORCH_EXTENSIONS_DIR="$LOCAL_DISK/torch_extensions-$USER"
}

# on each node: the folders that jobs of this user share, each the user's alone, and a copy of what is read there from
# its own disk. A mark says that a copy is whole (one that was cut short must not pass for one), a lock keeps two jobs
# that start on a node from copying at once
prepare_nodes() {
  local copies="$TORCH_EXTENSIONS_DIR" there="$LOCAL_DISK/weights-$USER" built=""
  local folders=("$copies")
  [ "$TRITON_CACHE_DIR" != "$KERNELS" ] || folders+=("$KERNELS")  # another one is checked by train.py
  if [ -d "$BUILT" ]; then  # another build, another folder: a job that runs keeps its own
    if [ "$BUILT" != "$BUILT_IN_PROJECT" ] &&
      [ -n "$(find -L "$BUILT" -maxdepth 0 \( -perm /022 -o ! -user "$(id -u)" ! -user 0 \))" ]; then
      echo "error: TORCH_EXTENSIONS_DIR: $BUILT belongs to another user or can be written to by others," \
        "and code is loaded from there; remove it, or name another folder" >&2
      return 2
    fi
    built="$(cd "$BUILT" && find . -name '*.so' -printf '%p %s %T@\n' | sort | cksum | cut -d' ' -f1)"
    TORCH_EXTENSIONS_DIR="$copies/$built"
  fi
  if [ -n "$STAGE_WEIGHTS" ]; then
    echo "staging $STAGE_WEIGHTS to $there on each node"
    export WEIGHTS="$there"
    folders+=("$there")
  fi
  # shellcheck disable=SC2016  # expanded on the nodes
  srun --ntasks-per-node=1 --ntasks="$SLURM_NNODES" bash -c '
    set -euo pipefail
    umask 077
    copy() {  # from, to: times kept, or all would be compiled again; links followed; no lock of a compilation
      [ -f "$2.whole" ] && return 0
      exec 9> "$2.lock"; flock 9
      [ -f "$2.whole" ] && return 0
      rm -rf "$2" && cp -rL --preserve=timestamps "$1" "$2"
      find "$2" -name lock -type f -delete
      touch "$2.whole"
    }
    built="$1" copied="$2" weights="$3" staged="$4" refused=0
    shift 4
    for folder in "$@"; do  # their names can be guessed: in /tmp, anybody may have made them first
      mkdir -p "$(dirname "$folder")"
      [ -e "$folder" ] || [ -L "$folder" ] || mkdir "$folder" 2>/dev/null || true  # made by another job, perhaps
      if [ ! -d "$folder" ] || [ -L "$folder" ] || [ ! -O "$folder" ] ||
        [ -n "$(find "$folder" -maxdepth 0 -perm /022)" ]; then
        echo "error: LOCAL_DISK: $folder on $(uname -n) is not a folder of $(id -un) alone:" \
          "it is a link, another user'\''s, or others can write to it." \
          "Code or weights are loaded from there; remove it, or name another LOCAL_DISK" >&2
        refused=2
      fi
    done
    [ "$refused" = 0 ] || exit "$refused"
    [ -z "$built" ] || [ "$built" -ef "$copied" ] || copy "$built" "$copied"
    [ -z "$weights" ] || copy "$weights" "$staged"' _ "${built:+$BUILT}" "$TORCH_EXTENSIONS_DIR" \
    "$STAGE_WEIGHTS" "$there/$(basename "$STAGE_WEIGHTS")" "${folders[@]}"
}

# python, in the container if there is one; the project and its data are mounted where they are
in_container() {
  case "$CONTAINER" in
    none) echo "$VENV/bin/python" ;;
    apptainer) echo "apptainer exec --nv --no-home --bind $PROJECT,$LOCAL_DISK${CLINICAL_DATA_ROOT:+,$CLINICAL_DATA_ROOT}${WEIGHTS:+,$WEIGHTS} $IMAGE python" ;;
    pyxis) echo "python" ;;
  esac
}

# srun's options for a container that srun itself starts
container_options() {
  options=()
  if [ "$CONTAINER" = pyxis ]; then
    options+=("--container-image=$IMAGE" "--container-mounts=$PROJECT,$LOCAL_DISK${CLINICAL_DATA_ROOT:+,$CLINICAL_DATA_ROOT}${WEIGHTS:+,$WEIGHTS}" "--container-workdir=$PROJECT")
  fi
}

# python with these arguments, once, on the first node
run_once() {
  local python options
  python="$(in_container)"
  container_options
  # shellcheck disable=SC2086  # $python is a command and its arguments
  srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --relative=0 "${options[@]}" $python "$@"
}

# train.py with these arguments on all tasks of the job, or of its first STEP_NODES nodes; requeues the job if a signal stopped it
run_ranks() {
  local python code=0 options told stop_file=""
  python="$(in_container)"
  container_options
  echo "job $JOB, start $((${SLURM_RESTART_COUNT:-0} + 1)): $1 on $SLURM_JOB_NODELIST at $(date +%T.%1N)"
  prepare_nodes || leave "$?"
  # an srun of an earlier start, back from behind a broken network, ends the step of its own number: a step more, and it is not the new ranks'
  if [ $((${SLURM_RESTART_COUNT:-0} % 2)) = 1 ]; then srun --nodes=1 --ntasks=1 --ntasks-per-node=1 true || leave "$?"; fi
  # rank 0 writes its exit code there: torchrun answers 1 whatever its ranks answered, srun 137 for a rank that it
  # ended itself. A folder of this start, which nobody else can have made: what is left of an earlier one behind a
  # broken network writes to its own
  told="$(mktemp -d "$PROJECT/.exit-$JOB-${SLURM_RESTART_COUNT:-0}-XXXXXX")" || leave "$?"
  export EXIT_CODE_FILE="$told/code"
  if [ "$LAUNCHER" = torchrun ]; then
    # In a step of one task, since that is what SLURM signals, not this shell. The step has all GPUs of the node. torchrun would die of
    # SIGUSR1 and orphan its ranks, so it ignores it; SLURM signals the ranks too, and where it does not the task passes it on. A SIGTERM to
    # torchrun would give the ranks 30 seconds, which a long step exceeds
    # shellcheck disable=SC2016,SC2086  # expanded in the task; $python is a command and its arguments
    env -u SLURM_GPUS_PER_TASK srun --nodes=1 --ntasks=1 --ntasks-per-node=1 ${SLURM_GPUS_ON_NODE:+"--gres=gpu:$SLURM_GPUS_ON_NODE"} "${options[@]}" bash -c '
      trap "" USR1
      "$@" & launcher=$!
      trap "pkill -USR1 -P $launcher || true" USR1
      trap "kill -TERM $launcher 2>/dev/null || true" TERM
      code=0
      while kill -0 "$launcher" 2>/dev/null; do wait "$launcher" && code=0 || code=$?; done
      exit "$code"' _ $python -m torch.distributed.run --master_addr 127.0.0.1 --master_port "$MASTER_PORT" \
      --nproc_per_node "${SLURM_GPUS_ON_NODE:-${SLURM_NTASKS_PER_NODE:-1}}" -- train.py "$@" || code=$?
  else
    if [ -n "${STEP_NODES:-}" ]; then options+=("--nodes=$STEP_NODES" "--ntasks=$((STEP_NODES * ${SLURM_NTASKS_PER_NODE:-1}))" --relative=0); fi
    # a rank that fails ends the job at once; those that stop on request have all saved and met before the first of them leaves
    # shellcheck disable=SC2086  # $python is a command and its arguments
    srun --kill-on-bad-exit=1 --wait=60 "${options[@]}" $python train.py "$@" || code=$?
  fi
  if [ "$code" -ne 0 ] && grep -qxE '[0-9]{1,3}' "$EXIT_CODE_FILE" 2>/dev/null; then code="$(cat "$EXIT_CODE_FILE")"; fi
  [ ! -e "$EXIT_CODE_FILE.STOP" ] || stop_file=1  # rank 0 writes it when it reads the file STOP
  rm -rf "$told"
  leave "$code" "$stop_file"
}

leave() {  # exit code; whether somebody stopped the run by the file STOP, and so wants the job to end
  local code="$1" stop_file="${2:-}"
  case "$code" in
    0) echo "done" ;;
    3) echo "slower than what it was compared with: not requeued" >&2 ;;
    2) echo "the configuration, data or command is wrong (see the error above): not requeued" >&2 ;;
    75 | 138)  # 138: by SIGUSR1, before Python could take it
      if [ -n "$stop_file" ]; then
        echo "stopped by the file STOP: saved, not requeued; submit it again to go on" >&2
      elif [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
        echo "stopped on request; requeued as $JOB (restart $((${SLURM_RESTART_COUNT:-0} + 1)) of at most $MAX_RESTARTS)"
        scontrol requeue "$JOB"
      else
        echo "stopped on request; requeued $MAX_RESTARTS times already, so not again: submit it once more to go on" >&2
      fi ;;
    *) echo "ended with exit code $code: not requeued; submit it again to go on from the last checkpoint" >&2 ;;
  esac
  exit "$code"
}
