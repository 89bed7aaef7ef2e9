#!/bin/sh
# What either image holds: Python, a compiler (Triton and DeepSpeed compile at run time), the pinned packages. The project itself is mounted.
set -eu
export DS_BUILD_OPS=0
apt-get update
apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ git
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/venv
if [ -d /build/wheelhouse ]; then from="--no-index --find-links /build/wheelhouse"; else from=""; fi
# shellcheck disable=SC2086  # several words
/opt/venv/bin/pip install --no-cache-dir $from -c /build/constraints.txt setuptools wheel "$(grep '^torch==' /build/requirements.txt)"
# shellcheck disable=SC2086
/opt/venv/bin/pip install --no-cache-dir --no-build-isolation $from -c /build/constraints.txt -r /build/requirements.txt
