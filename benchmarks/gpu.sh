#!/usr/bin/env bash
# What a GPU is needed for, on one card, with a JSON after each step:
#   1. bench_*:     compile and step times and peak memory of the stock network, A and B, compiled and not
#   2. accuracy_*:  fold 0 of a data set: the stock network, A and convolutions, for as many epochs as fit
#   3. float16_*:   200 steps in float16 at ten times the learning rate
#   4. num_gpus_*:  a short training with -num_gpus 1
#     benchmarks/gpu.sh [arguments of nnUNetv2_salstm bench, e.g. --preset hippocampus3d acdc3d]
# Steps 2 and 4 need nnU-Net's variables and a preprocessed data set; without them they are left out. Environment:
#     MINUTES=25       in which all of it ends, about; bench leaves out the plans that do not fit
#     DATASET=4        by number or name, Hippocampus by default
#     OUT=FOLDER       where the files go, by default docs/results
#     ITERATIONS=50    an epoch, by default nnU-Net's; STEPS=200 of step 3
# Without a GPU it runs on the CPU, where nnU-Net does not compile. This rehearses it:
#     MINUTES=10 ITERATIONS=2 STEPS=3 DATASET=... benchmarks/gpu.sh --preset hippocampus3d --repeats 1 --batch-size 1
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
minutes=${MINUTES:-25} dataset=${DATASET:-4}
export OUT=${OUT:-$here/../docs/results}
mkdir -p "$OUT"

name=$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
if [[ -n $name ]]; then
    export DEVICE=cuda
    settings=(t f) batch=()
else
    export DEVICE=cpu
    settings=(f) name=cpu batch=(--batch-size 1)
    echo "No GPU that torch can use: running on the CPU, uncompiled." >&2
fi
machine=$(tr -cs '[:alnum:]\n' '_' <<< "${name,,}")

left() { echo $((60 * minutes - SECONDS)); }

# Two fifths of the time for what has to be compiled, a fifth for the rest.
for setting in "${settings[@]}"; do
    if [[ $setting == t ]]; then kind=compiled fifths=2; else kind=eager fifths=1; fi
    share=$((60 * minutes * fifths / 5))
    file=$OUT/bench_${machine}_$kind
    echo "==> bench, $kind, at most $share s"
    # The predictor compiles only where nnUNet_compile says so; training compiles unless it says no.
    status=0
    nnUNet_compile=$setting timeout $share \
        nnUNetv2_salstm bench -device "$DEVICE" --json "$file.json" --html "$file.html" "$@" || status=$?
    ((status == 0 || status == 124)) || exit $status
    ((status == 0)) || echo "==> time is over: $file.json has the plans that were finished" >&2
done

find='import sys; from nnunetv2_salstm.host.datasets import find_dataset as f; print(f(*sys.argv[1:]).name)'
if planned=$(: "${nnUNet_results:?is not set}" 2>&1 && python -c "$find" nnUNet_preprocessed "$dataset" 2>&1); then
    epochs_of() { echo "${1}epochs${ITERATIONS:+_${ITERATIONS}its}"; }
    trial=nnUNetTrainerSALSTM_A_$(epochs_of 2)
    echo "==> how long an epoch takes"
    start=$SECONDS
    nnUNetv2_train "$planned" 3d_fullres 0 -tr "$trial" -device "$DEVICE"
    whole=$((SECONDS - start))
    epoch=$(cat "$nnUNet_results/$planned/${trial}__nnUNetPlans__3d_fullres/fold_0"/training_log_*.txt |
        sed -n 's/.*Epoch time: \([0-9.]*\) s.*/\1/p' | tail -n 1)
    # A fifth of what is left is kept for the steps behind. Each training compiles and validates, as the trial did.
    epochs=$(awk -v left="$(left)" -v whole="$whole" -v epoch="$epoch" \
        'BEGIN { fit = int((0.8 * left / 3 - whole) / epoch); print (fit < 2 ? 2 : fit) }')
    echo "==> a training of 2 epochs takes $whole s, an epoch $epoch s: $epochs epochs fit"
    METHODS="SALSTMOff SALSTM_A SALSTMConvControl" bash "$here/accuracy.sh" "$planned" 3d_fullres "$epochs" 0
else
    echo "==> no trainings: $(tail -n 1 <<< "${planned:-nnUNet_results is not set}")" >&2
    planned=
fi

echo "==> float16"
status=0
python "$here/float16_training.py" -device "$DEVICE" --steps "${STEPS:-200}" "${batch[@]}" \
    --json "$OUT/float16_$machine.json" || status=$?

if [[ -n $planned ]]; then
    trainer=nnUNetTrainerSALSTM_A_$(epochs_of 1)
    echo "==> -num_gpus 1"
    start=$SECONDS
    command=(nnUNetv2_train "$planned" 3d_fullres 0 -tr "$trainer" -device "$DEVICE" -num_gpus 1)
    trained=0
    "${command[@]}" || trained=$?
    printf '{"command": "%s", "status": %d, "seconds": %d}\n' "${command[*]}" "$trained" $((SECONDS - start)) \
        > "$OUT/num_gpus_$machine.json"
    ((trained == 0)) || status=$trained
fi
echo "==> all: $SECONDS s"
exit "$status"
