#!/usr/bin/env bash
# The whole job on data that need no download: moons (2-D) and scikit-learn's handwritten digits with corruptions.
# Classifier, annotation, training, generation and figures; ten to fifteen minutes on two CPU cores after the set-up.
# bash scripts/demo.sh [output folder, by default demo-out]
set -euo pipefail
start="$PWD"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "" # no extra
out="${1:-demo-out}"
case "$out" in /* | [A-Za-z]:*) ;; *) [ $# -gt 0 ] && out="$start/$out" ;; esac
points=20000 moons_kimg=1500 digits_kimg=90 count=2000
[ -n "${DEMO_QUICK:-}" ] && points=2000 moons_kimg=2 digits_kimg=0.1 count=100 # only to see that everything runs
began=$SECONDS
mkdir -p "$out"

echo; echo "== 1/4 moons: data, classifier, MSP of every point"
python scripts/dataset_tool.py moons --num "$points" --dest "$out/moons.zip"
echo; echo "== 2/4 moons: train, then ask the generator for chosen MSPs"
python scripts/train.py --data "$out/moons.zip" --outdir "$out/runs-moons" --kimg $moons_kimg
python -m stylegan2_msp report --run "$out/runs-moons" --data "$out/moons.zip" --count $count --outdir "$out/moons"

echo; echo "== 3/4 digits: data with the paper's corruptions, classifier, MSP of every image"
python scripts/dataset_tool.py digits --corrupt gaussian --dest "$out/digits.zip"
echo; echo "== 4/4 digits: train, then generate at falling MSP"
python scripts/train.py --data "$out/digits.zip" --gpus 2 --device cpu --outdir "$out/runs-digits" --kimg $digits_kimg --tick 5
python scripts/generate.py --network "$out/runs-digits" --msp 1.0,0.9,0.7,0.5,0.3 --seeds 0-9 --outdir "$out/generated"
python -m stylegan2_msp report --run "$out/runs-digits" --data "$out/digits.zip" --count $count --outdir "$out/digits"

echo
echo "Done in $((SECONDS - began)) s. Look at:"
echo "  $out/generated/grid.png      digits at falling MSP, same noise in each column"
ls "$out"/moons/*.png "$out"/digits/*.png | sed 's/^/  /'
