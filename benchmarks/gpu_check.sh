#!/usr/bin/env bash
# Everything that only a GPU can show, in one command, with nothing to download:
#
#   bash benchmarks/gpu_check.sh OUT_DIR [--reference CHECKOUT] [--mnist FOLDER] [--minutes 8] [--quick]
#
# Builds the kernels, runs the GPU tests, the operator and step benchmarks, and trains corrupted MNIST (from FOLDER or
# $MNIST_DIR with the four idx files; scikit-learn's digits if there is none). A stage that fails is noted and the next
# one goes on. OUT_DIR/summary.md says how each stage ended; logs, JSON and pictures lie beside it. Each stage has its
# own time limit, and stages can be chosen by name: STAGES="doctor tests" bash benchmarks/gpu_check.sh OUT_DIR
set -u

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }

out="" reference="" mnist="${MNIST_DIR:-}" minutes=8 quick=""
while [ $# -gt 0 ]; do
    case "$1" in
        --reference) reference="$(cd "$2" && pwd)" || exit 2; shift 2 ;;
        --mnist) mnist="$(cd "$2" && pwd)" || exit 2; shift 2 ;;
        --minutes)
            [ "$2" -gt 0 ] 2>/dev/null || { echo "error: --minutes: must be a whole number from 1 on, found $2" >&2; exit 2; }
            minutes="$2"; shift 2
            ;;
        --quick) quick=1; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) echo "error: unknown option $1" >&2; usage >&2; exit 2 ;;
        *) out="$1"; shift ;;
    esac
done
[ -n "$out" ] || { echo "error: name the folder for the results" >&2; usage >&2; exit 2; }
mkdir -p "$out" || exit 1
out="$(cd "$out" && pwd)"
cd "$(dirname "$0")/.." || exit 1
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON="$PWD/.venv/bin/python"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
device=cuda
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || device=cpu

summary="$out/summary.md"
{
    echo "# GPU check"
    echo
    echo "$(date -u +%Y-%m-%dT%H:%M:%SZ), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), device $device"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
    echo
    echo "| stage | result | seconds | log |"
    echo "| --- | --- | ---: | --- |"
} >"$summary"

failures=0
# stage NAME SECONDS COMMAND...: runs the command under a time limit, logs it and notes how it ended.
stage() {
    local name="$1" limit="$2" start result
    shift 2
    case " ${STAGES:-$name} " in *" $name "*) ;; *) return ;; esac
    echo "== $name: $*"
    start=$SECONDS
    timeout --signal=INT --kill-after=60 "$limit" "$@" >"$out/$name.log" 2>&1
    case $? in
        0) result=passed ;;
        124)
            result="stopped after $limit s"
            [ "$name" = train ] || failures=$((failures + 1)) # whose length is the time limit
            ;;
        *) result=FAILED; failures=$((failures + 1)) ;;
    esac
    echo "| $name | $result | $((SECONDS - start)) | $name.log |" >>"$summary"
    echo "   $result after $((SECONDS - start)) s; end of $name.log:"
    tail -n 4 "$out/$name.log" | sed 's/^/   /'
}

ref=()
[ -n "$reference" ] && ref=(--reference "$reference") && export STYLEGAN2_ADA_PATH="$reference" # for its GPU test
step=("$PYTHON" benchmarks/bench_step.py "${ref[@]}" --device "$device")
ops=("$PYTHON" benchmarks/bench_ops.py "${ref[@]}" --device "$device")
half=bf16
[ "$device" = cuda ] && half=fp16
if [ -n "$quick" ]; then
    large=(--quick --no-compile) compiled=(--quick --compile --operator "bias_act lrelu" --layout contiguous)
    sizes=(--config narrow --batch 8 --rounds 1) tiny=("${sizes[@]}") narrow=("${sizes[@]}")
    length=(--kimg 0.256 --tick 0.128 --snap 1) count=100
else
    large=(--size large --size huge --no-compile) compiled=(--size large --compile) # it compiles for seconds each
    for name in "bias_act lrelu" "bias_act lrelu clamp" "upfirdn2d 4x4" "upfirdn2d 4x4 up 2" "upfirdn2d 4x4 down 2"; do
        compiled+=(--operator "$name")
    done
    # The family's presets as they train: with path length regularisation.
    sizes=(--config auto32 --config auto256 --config paper256 --config paper512 --precision "$half" --rounds 3 --path-length)
    tiny=(--config tiny --config small --precision "$half" --rounds 3) narrow=(--config narrow --rounds 3)
    length=(--kimg 100000) count=2000
fi

stage doctor 120 "$PYTHON" -m stylegan2_msp doctor
stage tests 900 "$PYTHON" -m pytest -q -m gpu tests
stage step-tiny 300 "${step[@]}" "${tiny[@]}" --out "$out/step-tiny.json"
stage step 900 "${step[@]}" "${sizes[@]}" --out "$out/step.json"
stage ops 600 "${ops[@]}" "${large[@]}" --out "$out/ops.json"
stage ops-compiled 600 "${ops[@]}" "${compiled[@]}" --out "$out/ops-compiled.json"
stage step-direct 300 "${step[@]}" "${tiny[@]}" --no-graphs --out "$out/step-direct.json"
stage step-ada 300 "${step[@]}" "${narrow[@]}" --ada 0.3 --out "$out/step-ada.json"
stage step-pl 300 "${step[@]}" "${narrow[@]}" --path-length --out "$out/step-pl.json"
if [ -n "$reference" ]; then
    stage figure-step 60 "$PYTHON" benchmarks/draw.py "$out/step.json" "$out/step.png"
    stage figure-ops 60 "$PYTHON" benchmarks/draw.py "$out/ops.json" "$out/ops.png"
fi

if [ -n "$mnist" ]; then
    stage data 300 "$PYTHON" scripts/dataset_tool.py mnist --source "$mnist" --corrupt gaussian --dest "$out/data.zip"
else
    echo "no MNIST folder (--mnist or MNIST_DIR): scikit-learn's digits instead" | tee -a "$summary"
    stage data 300 "$PYTHON" scripts/dataset_tool.py digits --corrupt gaussian --dest "$out/data.zip"
fi
# The time limit ends the training by SIGINT, at which it saves its state.
stage train $((minutes * 60)) "$PYTHON" scripts/train.py --data "$out/data.zip" --cond-msp=1 --device "$device" \
    --outdir "$out/runs" "${length[@]}"
run="$(ls -d "$out"/runs/*/ 2>/dev/null | tail -n 1)"
stage report 300 "$PYTHON" -m stylegan2_msp report --run "${run:-none}" --data "$out/data.zip" --count $count \
    --outdir "$out/report"
stage generate 120 "$PYTHON" scripts/generate.py --network "$out/runs" --msp 1.0,0.9,0.7,0.5,0.3 --seeds 0-9 \
    --outdir "$out/generated"
rm -f "$out/data.zip"

{
    echo
    [ "$failures" -eq 0 ] && echo "No stage failed." || echo "$failures stage(s) failed; see their logs."
} >>"$summary"
cat "$summary"
[ "$failures" -eq 0 ]
