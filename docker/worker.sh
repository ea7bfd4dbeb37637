#!/bin/sh
# A worker whose jobs may use the engine ray. Ray wants its driver on a node of the cluster, so this machine becomes one
# that offers nothing, and then runs the worker.
set -eu
ray start --address="$WARPTUNE_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats
exec warptune worker
