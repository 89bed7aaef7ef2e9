#!/usr/bin/env bash
# The whole job, submitted from a login node: check everything, then distill -> adapt -> evaluate -> report, each after the one before it.
#
#     launch_scripts/pipeline.sh configs/gpt_oss_20b/distill.yaml configs/gpt_oss_20b/adapt.yaml [--a.b=value for both …]
#
# SBATCH_OPTIONS: for every job ("--account=mine --nodes=4"). ADAPT_ARRAY: adapt as an array, groups of targets apart by spaces
# ("headqa,medbullets radnli"). Run it again after a failure: parts that are done end at once, the others go on where they were.
# An error in a configuration ends it here, with exit code 2: no job is submitted.
set -euo pipefail
usage="usage: launch_scripts/pipeline.sh DISTILL_CONFIG ADAPT_CONFIG [--a.b=value …]"
for word; do
  if [ "$word" = --help ] || [ "$word" = -h ]; then
    echo "$usage"
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit 0
  fi
done
case "${1:--}:${2:--}" in
  -*:* | *:-*) echo "$usage" >&2; exit 2 ;;
esac
distill="$1" adapt="$2"
shift 2
cd "$(dirname "$0")/.."
export PROJECT="${PROJECT:-$PWD}"
# shellcheck source=launch_scripts/common.sh
source "$PWD/launch_scripts/common.sh"
here_problems() {  # what the jobs need, and this machine
  settings_problems
  [ "$CONTAINER" = none ] || python_problem  # the checks below run outside the container
  command -v sbatch > /dev/null || echo "sbatch: not found; start the pipeline on a login node of the cluster"
}
end_if_wrong "$(here_problems)"
read -r -a options <<< "${SBATCH_OPTIONS:-}"

# no GPU, no network: keys, paths, tokenizer, data; what is compiled or tokenised once is done here, not while nodes are held
check() {  # mode config flags…: prints the run directory
  PYTHONUNBUFFERED=1 "$VENV/bin/python" train.py plan --mode="$1" --config="$2" "${@:3}" "${prepare[@]}" --output="$plan" 2>&1 | say_once || {
    local code=$?
    [ "$code" -eq 3 ] || return "$code"  # 3: too large for the one GPU that plan counts with here; nodes are not known yet
  }
  "$VENV/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["run_dir"])' "$plan"
}
say_once() {  # a flag that both configurations refuse is told of once
  awk -v told="$told" 'BEGIN { while ((getline line < told) > 0) seen[line] }
    /^error: / { print >> told; if ($0 in seen) next }
    { print > "/dev/stderr" }'
}
plan="$(mktemp)" told="$(mktemp)"
trap 'rm -f "$plan" "$told"' EXIT
prepare=(--prepare=true) wrong=0
distill_run="$(check distill "$distill" "$@")" || wrong=$?
[ "$wrong" = 0 ] || prepare=() distill_run=unknown  # the other one is checked all the same
all="$(tr -s ' ,' '\n' <<< "${ADAPT_ARRAY:-}" | sed '/^$/d' | sort -u | paste -sd,)"  # the targets of all elements
adapt_run="$(check adapt "$adapt" "$@" --adapt.source_run="$distill_run" ${all:+"--adapt.targets=$all"})" || wrong=$((wrong ? wrong : $?))
[ "$wrong" = 0 ] || exit "$wrong"

submit() {  # name, job that must be done first or nothing, sbatch options and script …
  local name="$1" after="$2" job
  shift 2
  job="$(sbatch --parsable ${after:+--dependency=afterok:$after --kill-on-invalid-dep=yes} "${options[@]}" --job-name="$name" "$@")"
  echo "$name: job $job${after:+, after $after}" >&2
  echo "${job%%;*}"
}
first="$(submit distill "" launch_scripts/distill.sbatch "$distill" "$@")"
runs=("$distill_run")
if [ -n "${ADAPT_ARRAY:-}" ]; then
  read -r -a groups <<< "$ADAPT_ARRAY"
  export TARGETS="$ADAPT_ARRAY" RUN_DIR="$adapt_run"
  second="$(submit adapt "$first" --array="0-$((${#groups[@]} - 1))" launch_scripts/adapt.sbatch "$adapt" "$@" --adapt.source_run="$distill_run")"
  for group in "${groups[@]}"; do runs+=("$adapt_run-${group//,/+}"); done
else
  second="$(submit adapt "$first" launch_scripts/adapt.sbatch "$adapt" "$@" --adapt.source_run="$distill_run")"
  runs+=("$adapt_run")
fi
third="$(submit evaluate "$second" launch_scripts/evaluate.sbatch "${runs[@]}")"
list="$(IFS=,; echo "${runs[*]}")"
submit report "$third" --nodes=1 --ntasks=1 --ntasks-per-node=1 --gpus-per-task=0 launch_scripts/report.sbatch "$list" > /dev/null
echo "watch them with squeue; the results will be in ${runs[0]}/report.html and report.md" >&2
