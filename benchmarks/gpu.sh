#!/usr/bin/env bash
# The whole benchmark on a GPU, with torch.compile and without, into docs/results/; one JSON a machine and setting.
#     benchmarks/gpu.sh [arguments of nnUNetv2_salstm bench, e.g. --preset hippocampus3d acdc3d]
# Without a GPU it runs on the CPU, where nnU-Net does not compile, and says so: with --preset hippocampus3d --repeats 1
# that takes a few minutes and shows that the script works. OUT=FOLDER writes elsewhere.
set -euo pipefail
out=${OUT:-"$(dirname "${BASH_SOURCE[0]}")/../docs/results"}
mkdir -p "$out"

if name=$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")' 2>/dev/null) \
    && [[ -n $name ]]; then
    device=cuda settings=(t f)
else
    device=cpu settings=(f) name=cpu
    echo "No GPU that torch can use: running on the CPU, uncompiled." >&2
fi
machine=$(tr -cs '[:alnum:]\n' '_' <<< "${name,,}")

for setting in "${settings[@]}"; do
    file=$out/bench_${machine}_$([[ $setting == t ]] && echo compiled || echo eager)
    # The predictor compiles only where nnUNet_compile says so; training compiles unless it says no.
    nnUNet_compile=$setting nnUNetv2_salstm bench -device "$device" --json "$file.json" --html "$file.html" "$@"
done
