#!/usr/bin/env bash
# Trains the stock network, SA-LSTM A and B and the controls alike, then compares them; finished trainings are skipped.
#     benchmarks/accuracy.sh DATASET CONFIGURATION EPOCHS "SEED ..."      e.g. benchmarks/accuracy.sh 4 3d_fullres 30 "0 1"
# The data set must be planned and preprocessed. Run it again after an interruption and it goes on. Environment:
#     FOLDS="0 1"                  by default 0
#     METHODS="SALSTMOff SALSTM_A" by default all; the first is the baseline
#     ITERATIONS=50                per epoch, by default nnU-Net's
#     PLANS=nnUNetResEncUNetMPlans by default nnUNetPlans
#     DEVICE=cpu                   by default cuda
#     OUT=FOLDER                   where the report goes, by default docs/results
#     nnUNet_n_proc_DA=0 makes the augmentation of equal seeds equal too: nnU-Net's worker processes are unseeded.
set -euo pipefail
if (($# != 4)); then
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
dataset=$1 configuration=$2 epochs=$3 seeds=$4
read -ra folds <<< "${FOLDS:-0}"
read -ra methods <<< "${METHODS:-SALSTMOff SALSTM_A SALSTM_B BDCLSTM SALSTMConvControl}"
if ((${#methods[@]} == 1 && $(wc -w <<< "$seeds") < 2)); then
    echo "METHODS=${methods[*]}: one method with one seed leaves nothing to compare; name a second" >&2
    exit 2
fi
device=${DEVICE:-cuda} plans=${PLANS:-nnUNetPlans}
out=${OUT:-"$(dirname "${BASH_SOURCE[0]}")/../docs/results"}
length=_${epochs}epochs${ITERATIONS:+_${ITERATIONS}its}
: "${nnUNet_results:?must be set, as for nnU-Net itself}"

name=$(python -c 'import sys; from nnunetv2_salstm.host.datasets import find_dataset as f; print(f(*sys.argv[1:]).name)' \
    nnUNet_preprocessed "$dataset")

trainers=()
for seed in $seeds; do
    for method in "${methods[@]}"; do
        trainer=nnUNetTrainer$method${length}_seed$seed
        trainers+=("$trainer")
        model=$nnUNet_results/$name/${trainer}__${plans}__$configuration
        for fold in "${folds[@]}"; do
            folder=$model/fold_$fold
            if [[ -f $folder/validation/summary.json ]]; then
                echo "==> $trainer, fold $fold: finished before"
                continue
            fi
            if [[ -f $folder/checkpoint_final.pth ]]; then
                how=(--val)
            elif compgen -G "$folder/checkpoint_*.pth" > /dev/null; then
                how=(--c)
            else
                how=()
            fi
            echo "==> $trainer, fold $fold ${how[*]:-}"
            nnUNetv2_train "$name" "$configuration" "$fold" -tr "$trainer" -p "$plans" -device "$device" "${how[@]}"
        done
    done
done

# In the order of the methods, so that the first one is the baseline.
mkdir -p "$out"
report=$out/accuracy_${name}_${configuration}${PLANS:+_$PLANS}$length
nnUNetv2_salstm compare -d "$name" -c "$configuration" -p "$plans" -tr "${trainers[@]}" \
    -f "${folds[@]}" --json "$report.json" --csv "$report.csv" --html "$report.html"
