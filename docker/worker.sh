#!/bin/sh
# Starts a worker whose jobs can use the engine ray. Ray needs its driver to run on a node of the cluster, so this
# machine joins as a node without CPUs or GPUs. Joining can fail while the head is starting, so we try four times.
set -eu
address=${WARPTUNE_RAY_ADDRESS:-$(cat "${WARPTUNE_RAY_ADDRESS_FILE:?or WARPTUNE_RAY_ADDRESS must be set}")}
for pause_s in 2 5 10 0; do
  ray start --address="$address" --num-cpus=0 --num-gpus=0 --disable-usage-stats && break
  [ "$pause_s" -gt 0 ] || exit 1
  sleep "$pause_s"
done
exec warptune worker
