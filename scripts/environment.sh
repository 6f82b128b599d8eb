# Makes .venv if it is missing and installs the project into it; sourced by demo.sh and test.sh, with the extra as $1.
# STYLEGAN2_MSP_TORCH chooses another torch, for example STYLEGAN2_MSP_TORCH="torch" for the newest CUDA build.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
extra="${1:-}"
programs() { if [ -d .venv/Scripts ]; then echo .venv/Scripts; else echo .venv/bin; fi; } # the former on Windows
if [ ! -x "$(programs)/python" ]; then
    for candidate in "${PYTHON:-}" python3 python3.12 python3.11 python3.10 python3.13 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
    if [ -z "${python:-}" ]; then
        echo "error: no Python >= 3.10 found; install one or name it with PYTHON=/path/to/python" >&2
        exit 1
    fi
    echo "Making .venv with $python ..."
    "$python" -m venv .venv || { rm -rf .venv; echo "error: '$python -m venv' failed; install its venv package" >&2; exit 1; }
fi
# The environment is complete when this stamp is newer than what it was made from.
stamp=".venv/installed${extra:+-$extra}"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    pip=("$(programs)/python" -m pip install --quiet --disable-pip-version-check)
    version="$(sed -n 's/^torch==//p' constraints.txt)"
    echo "Installing torch $version and the project (the first time takes some minutes) ..."
    if [ -n "${STYLEGAN2_MSP_TORCH:-}" ]; then
        "${pip[@]}" "$STYLEGAN2_MSP_TORCH" || exit 1
    elif command -v nvidia-smi >/dev/null 2>&1 || [ "$(uname)" != Linux ]; then
        "${pip[@]}" "torch==$version" || exit 1
    else
        # No GPU: the small CPU build, from a local index or PyTorch's own, before PyPI's large one.
        "${pip[@]}" "torch==$version+cpu" 2>/dev/null ||
            "${pip[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu" 2>/dev/null ||
            "${pip[@]}" "torch==$version" || exit 1
    fi
    constraints=constraints.txt
    if [ -n "${STYLEGAN2_MSP_TORCH:-}" ]; then
        constraints=.venv/constraints.txt
        grep -v '^torch==' constraints.txt >"$constraints"
    fi
    "${pip[@]}" --constraint "$constraints" --editable ".${extra:+[$extra]}" || exit 1
    touch "$stamp"
fi
export PATH="$PWD/$(programs):$PATH"
