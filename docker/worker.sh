#!/bin/sh
# A worker whose jobs may use the engine ray. Ray wants its driver on a node of the cluster, so this machine becomes one
# that offers nothing, and then runs the worker. Joining a head that is still busy with its own start may fail.
set -eu
for pause_s in 2 5 10 0; do
  ray start --address="$WARPTUNE_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats && break
  [ "$pause_s" -gt 0 ] || exit 1
  sleep "$pause_s"
done
exec warptune worker
