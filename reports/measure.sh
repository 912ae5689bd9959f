#!/usr/bin/env bash
# What this machine's numbers are. From the repository's root, with the harness installed:
#
#     reports/measure.sh STAGE OUT [CHECKOUTS]
#
# STAGE is one of tests, compile, precision, pipeline, batch, official, xl, sampling, or all, one after the other. Each
# takes less than nine minutes on an H100 or is stopped there, and leaves a folder OUT/STAGE. CHECKOUTS is a folder that
# holds DiT/, MaskDiT/ and MDT/ (branch mdtv1), the official codes; without it that stage is left out. No data and no
# weights are needed: latents, images and the VAE's weights are random.
#
# SIZE=tiny measures the tiny recipes, which a CPU can do; ROUNDS and WINDOW shorten everything.
set -euo pipefail
stage=$1 out=$2 checkouts=${3:-}
size=${SIZE:-s} rounds=${ROUNDS:-7} window=${WINDOW:-1}
limit=535 # seconds
mkdir -p "$out"

has_gpu() { python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
if has_gpu; then all=bf16,tf32,fp32 base=bf16 theirs=tf32; else all=fp32,bf16 base=fp32 theirs=fp32; fi
methods=("dit-$size" "maskdit-$size" "mdt-$size" "sddit-$size")

bench() { # FOLDER ARGUMENT...
    timeout "$limit" python -m harness bench "${@:2}" --rounds "$rounds" --window "$window" --out "$out/$1"
}

run_stage() {
    case $1 in
    tests)
        mkdir -p "$out/tests"
        timeout "$limit" python -m pytest tests/gpu tests/nn tests/baselines tests/training/test_optimised_step.py -q \
            | tee "$out/tests/tests.txt"
        ;;
    compile) bench compile "${methods[@]}" --precision "$base" --compile on,off ;;
    precision) bench precision "${methods[@]}" --precision "$all" ;;
    pipeline) bench pipeline "${methods[@]}" --precision "$theirs" --pipeline cached,online-vae ;;
    batch) bench batch "dit-$size" "sddit-$size" --precision "$base" --batch 256,64,1024 ;;
    official)
        if [[ -z $checkouts ]]; then
            echo "official: left out, no CHECKOUTS given" >&2
            return
        fi
        bench official "dit-$size" "maskdit-$size" "mdt-$size" --precision "$theirs" --official "$checkouts"
        # MDT-lite is not MDT's network: with its relative positions it is
        bench official-mdt "mdt-$size" --set relative_position=true --precision "$theirs" --official "$checkouts"
        if has_gpu; then # and ours as fast as it goes, in the same run as theirs at their own precision
            bench official-fastest "dit-$size" "maskdit-$size" "mdt-$size" --precision bf16 --compile on \
                --official "$checkouts"
        fi
        ;;
    xl) bench xl dit-xl sddit-xl maskdit-xl --precision "$base" --compile on --micro-batch 64 --profile ;;
    sampling) # how long drawing and decoding take, then features and the paper's five metrics
        rm -rf "$out/sampling" && mkdir -p "$out/sampling"
        python -m harness run "dit-$size" --data synthetic --pipeline online-vae --set vae=random --set formulation=edm \
            --set input='{channels: 4, side: 32, num_classes: 1000}' --set batch_size=2 --steps 2 --no-eval \
            --set log_every=1 --out "$out/sampling/runs"
        run=$(echo "$out/sampling/runs/dit-$size"/*)
        draw=(--npz --set sample_precision=bf16 --set sample_compile=true --set cuda_graphs=true
            --set decode_precision=tf32)
        for num in "${FIRST:-512}" "${NUM:-8192}"; do # the first call compiles; what it compiled is kept on the disk
            began=$(date +%s.%N)
            timeout "$limit" python -m harness sample "$run" --num "$num" "${draw[@]}" --seed "$num" --json \
                >"$out/sampling/sampled-$num.json"
            echo "$num images: $(python -c "import time; print(f'{time.time() - $began:.1f}')") s" \
                | tee -a "$out/sampling/seconds.txt"
        done
        images=$(echo "$run"/samples/*-"n${NUM:-8192}"-*/samples.npz)
        timeout "$limit" python -m harness evaluate "$images" --reference "$images" --features inception \
            --weights random --json >"$out/sampling/evaluated.json"
        ;;
    *)
        echo "no stage is called $1" >&2
        exit 2
        ;;
    esac
}

if [[ $stage == all ]]; then
    for each in tests compile precision pipeline batch official xl sampling; do run_stage "$each"; done
else
    run_stage "$stage"
fi
