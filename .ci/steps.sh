# shellcheck shell=bash
# The steps of .ci/run and .ci/nightly, to be sourced in the repository's root.

root=$PWD
# nnU-Net starts a worker process a core otherwise, also on machines with many cores and little memory.
export nnUNet_n_proc_DA=2
unset nnUNet_extTrainer NNUNETV2_SALSTM_NO_AUTOLOAD PYTHONPATH PYTHONHOME

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
first=$temporary/first
second=$temporary/second

step() {
    local name=$1 start=$SECONDS
    shift
    echo "==> $name"
    "$@"
    echo "==> $name: $((SECONDS - start)) s"
}

make_environment() {
    python3 -m venv "$first"
    source "$first/bin/activate"
    python --version
}

readme_test_command() {
    local command='pip install ".[test]" && pytest'
    grep --quiet --fixed-strings "$command" README.md || { echo "README.md no longer says: $command" >&2; return 1; }
    bash -euo pipefail -c "$command --durations=25"
}

# A single-node Slurm for the tests of studies, where a package manager and the right to use it are at hand; without it
# these tests are skipped and say so.
install_slurm() {
    command -v slurmctld > /dev/null && return
    if [[ $(id -u) -eq 0 ]] && command -v apt-get > /dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        timeout 300 bash -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends slurm-wlm munge' \
            > "$temporary/slurm.log" 2>&1 && return
        tail -n 3 "$temporary/slurm.log"
    fi
    echo "Slurm cannot be installed here: tests on it will be skipped"
}

# Of the nightly tests those that every change waits for: the whole way through nnU-Net's own commands, a launcher of a
# study that is killed, and jobs on a real Slurm where it can be installed.
nightly_cases() {
    install_slurm
    pytest -m nightly -n 2 -rs \
        tests/nnunet/test_end_to_end.py::test_train_kill_resume_validate_predict \
        tests/study/test_study_interrupts.py::test_a_killed_launcher_leaves_its_job_which_is_not_started_twice \
        tests/study/test_study_slurm.py::test_two_trainings_run_as_jobs_after_their_preprocessing
}

check_style() {
    pip install --quiet ".[dev]"
    ruff check
    ruff format --check
    mypy
    check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
    check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/{bug,result}.yml
    shellcheck --external-sources --severity=warning .ci/run .ci/nightly .ci/matrix .ci/steps.sh benchmarks/*.sh
    hadolint Dockerfile
}

# Only the heavy packages are the first environment's: its copy of this one is removed before.
install_wheel() {
    python -m build --wheel --no-isolation --outdir "$temporary"
    pip uninstall --quiet --yes nnunetv2-salstm
    python -m venv "$second"
    "$second/bin/pip" install --quiet --no-deps "$temporary"/*.whl
    local site='import sysconfig; print(sysconfig.get_path("purelib"))'
    python -c "$site" > "$("$second/bin/python" -c "$site")/first_environment.pth"
}

# From another folder, where nothing of the checkout is importable.
check_wheel() {
    cd "$temporary" || exit
    local folder
    folder=$("$second/bin/nnUNetv2_salstm" trainers --path)
    [[ $folder == "$second"/* ]] || { echo "not the installed wheel's trainers: $folder" >&2; return 1; }
    "$second/bin/python" "$root/tests/look_up_trainers.py" \
        nnUNetTrainerSALSTM_A nnUNetTrainerSALSTM_B_skips_2epochs_20its_seed1 nnUNetTrainerSALSTMOff
    cd "$root" || exit
}

# A tag v1.2.3 must be on the commit whose version is 1.2.3.
check_tag() {
    local version tags
    version=$("$second/bin/python" -c 'import nnunetv2_salstm; print(nnunetv2_salstm.__version__)')
    tags=$(git tag --points-at HEAD --list 'v[0-9]*')
    echo "version $version, tags at this commit: ${tags:-none}"
    [[ -z $tags ]] || grep --quiet --line-regexp --fixed-strings "v$version" <<< "$tags" || {
        echo "the tag is not the version's" >&2
        return 1
    }
}
