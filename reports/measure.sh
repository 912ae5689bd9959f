#!/usr/bin/env bash
# Measures this machine. From any folder:
#
#     reports/measure.sh STAGE OUT [CHECKOUTS]
#
# STAGE is one of the stages below, or first, second or all:
#   first   machine, step, gpu, compile, optimised: at most seven minutes
#   second  official, xl, batch, sampling: at most six and a half minutes
#   all     first, then second
# Alone there are precision, pipeline and attention too. CHECKOUTS is a folder that holds DiT/, MaskDiT/ and MDT/ (branch
# mdtv1), the official codes; without it the stage `official` is left out. No data and no weights are needed: latents,
# images and the VAE's weights are random.
#
# A stage that fails, or is stopped at its limit, ends no other stage. OUT/STAGE-status.txt says how each one ended, and
# OUT/STAGE.tgz, written anew after each one, holds its records, tables and logs; nothing else is written into OUT. The
# exit code is 1 if a stage has failed.
#
# Variables, all optional:
#   PYTHON          the Python to use (python3)
#   WHEELS          a folder of wheels for packages that this Python lacks; they are installed into WORK alone
#   WORK            a folder for everything large (a new one below TMPDIR)
#   HARNESS_COMMIT  the commit of this code, for records, where there is no .git
#   SIZE, ROUNDS, WINDOW, FIRST, NUM   tiny, 2, 0.1, 4 and 8 measure something that a CPU can do
#   LIMIT           seconds for each stage, in place of its own limit
set -uo pipefail
if (($# < 2)); then
    sed -n '2,/^set/{/^#/p}' "$0" >&2
    exit 2
fi
part=$1 checkouts=${3:+$(realpath "$3")} wheels=${WHEELS:+$(realpath "$WHEELS")}
python=${PYTHON:-python3} size=${SIZE:-s} rounds=${ROUNDS:-3} window=${WINDOW:-0.5}
mkdir -p "$2" && out=$(realpath "$2") || exit 4
work=${WORK:-$(mktemp -d)} && mkdir -p "$work" && work=$(realpath "$work") || exit 4
cd "$(dirname "$(realpath "$0")")/.." || exit 4
methods=("dit-$size" "sddit-$size" "maskdit-$size" "mdt-$size")
first=(machine step gpu compile optimised) second=(official xl batch sampling)
declare -A limits=(
    [machine]=20 [step]=70 [gpu]=60 [compile]=200 [optimised]=70 [official]=90 [xl]=130 [batch]=60 [sampling]=110
    [precision]=120 [pipeline]=120 [attention]=120
)
case $part in
first) stages=("${first[@]}") ;;
second) stages=("${second[@]}") ;;
all) stages=("${first[@]}" "${second[@]}") ;;
*) stages=("$part") ;;
esac
if [[ -z ${limits[${stages[0]}]:-} ]]; then
    echo "no stage is called $part; there are first, second, all, ${!limits[*]}" >&2
    exit 2
fi
if [[ -z ${HARNESS_COMMIT:-} ]] && commit=$(git rev-parse HEAD 2>"$work/git.txt"); then HARNESS_COMMIT=$commit; fi
export HARNESS_COMMIT=${HARNESS_COMMIT:-} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export HARNESS_CACHE=$work/cache TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton
status=$out/$part-status.txt results=$work/$part
rm -rf "$results" && mkdir -p "$results" && : >"$status" || exit 4

say() { echo "$*" | tee -a "$status"; }

# Python until the end of the stage. At SIGTERM a bench leaves what it has measured.
py() {
    local left=$((deadline - SECONDS))
    ((left > 0)) || return 124
    timeout --kill-after=20 "$left" "$python" "$@"
}

bench() { # NAME ARGUMENT...
    py -m harness bench "${@:2}" --rounds "$rounds" --window "$window" --out "$results/$1"
}

has_gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

prepare() {
    if [[ -n $wheels ]]; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$work/site" \
            "$wheels"/*.whl || say "the wheels in $wheels could not all be installed"
        export PYTHONPATH=$work/site:$PYTHONPATH
    fi
    local missing
    missing=$("$python" - <<'PYTHON'
import re, tomllib
from importlib.metadata import PackageNotFoundError, version

with open("pyproject.toml", "rb") as file:
    wanted = tomllib.load(file)["project"]["dependencies"]
for name in [*(re.match(r"[\w.-]+", text)[0] for text in wanted), "pytest"]:
    try:
        version(name)
    except PackageNotFoundError:
        print(name, end=" ")
PYTHON
    ) || say "$python could not be asked for its packages; PYTHON names another"
    if [[ -n $missing ]]; then
        say "missing packages: ${missing% }. Stages that need them fail: put their wheels into a folder, set WHEELS to it"
    fi
}

measure() { # STAGE
    case $1 in
    machine)
        nvidia-smi -q >"$results/nvidia-smi.txt" || echo "nvidia-smi says nothing"
        py -c 'import platform, torch, triton; print(platform.python_version(), torch.__version__, triton.__version__)'
        ;;
    step) bench step "${methods[@]}" --precision "$base" ;;
    gpu) py -m pytest tests/gpu -q -o addopts= -k "not twenty" ;;
    compile) bench compile "${methods[@]}" --precision "$base" --compile on,off ;;
    optimised) py -m pytest tests/gpu -q -o addopts= -k twenty ;;
    precision) bench precision "${methods[@]}" --precision "$precisions" ;;
    pipeline) bench pipeline "${methods[@]}" --precision "$theirs" --pipeline cached,online-vae ;;
    attention) bench attention "${methods[@]}" --precision "$base" --compile on --set attention=flash ;;
    batch) bench batch "dit-$size" "sddit-$size" --precision "$base" --batch 256,32,1024 ;;
    official)
        local code=0
        bench official "dit-$size" "maskdit-$size" --precision "$base" --official "$checkouts" || code=$?
        # MDT-lite is not MDT's network: with its relative positions it is
        bench official-mdt "mdt-$size" --set relative_position=true --precision "$base" --official "$checkouts" &&
            return "$code"
        ;;
    xl) bench xl dit-xl sddit-xl --precision "$base" --micro-batch 64 --profile ;;
    sampling) # how long drawing and decoding take, then features and the paper's five metrics
        local folder=$results/sampling run num images began
        local draw=(--npz --set "sample_precision=$base" --set sample_compile=true --set cuda_graphs=true
            --set "decode_precision=$theirs")
        mkdir -p "$folder"
        py -m harness run "dit-$size" --data synthetic --pipeline online-vae --set vae=random --set formulation=edm \
            --set input='{channels: 4, side: 32, num_classes: 1000}' --set batch_size=2 --steps 2 --no-eval \
            --set log_every=1 --out "$work/runs" || return
        run=$(echo "$work/runs/dit-$size"/*)
        for num in "${FIRST:-512}" "${NUM:-2048}"; do # the first call compiles; what it compiled is kept on the disk
            began=$SECONDS
            py -m harness sample "$run" --num "$num" "${draw[@]}" --seed "$num" --json >"$folder/sampled-$num.json" ||
                return
            echo "$num images: $((SECONDS - began)) s" | tee -a "$folder/seconds.txt"
        done
        images=$(echo "$run"/samples/*-"n${NUM:-2048}"-*/samples.npz)
        py -m harness evaluate "$images" --reference "$images" --features inception --weights random --json \
            >"$folder/evaluated.json"
        ;;
    esac
}

left_out() { # STAGE: why it cannot be measured here, or nothing
    case $1 in
    official) [[ -n $checkouts ]] || echo "no CHECKOUTS were given" ;;
    gpu | optimised | attention) [[ $device == gpu ]] || echo "it needs a GPU" ;;
    esac
}

gather() { # the small files of all stages so far, in one
    (cd "$results" && find . -type f -size -4096k \( -name '*.json' -o -name '*.md' -o -name '*.txt' -o -name '*.csv' \) \
        -print0 | tar --null --files-from=- -czf "$work/$part.tgz") && mv -f "$work/$part.tgz" "$out/$part.tgz"
}

prepare
device=cpu base=fp32 theirs=fp32 precisions=fp32,bf16
if has_gpu; then device=gpu base=bf16 theirs=tf32 precisions=bf16,tf32; fi
failed=0
for stage in "${stages[@]}"; do
    why=$(left_out "$stage")
    if [[ -n $why ]]; then
        say "$stage: left out, $why"
        continue
    fi
    began=$SECONDS limit=${LIMIT:-${limits[$stage]}}
    deadline=$((SECONDS + limit))
    mkdir -p "$results/$stage"
    measure "$stage" 2>&1 | tee "$results/$stage/log.txt"
    code=${PIPESTATUS[0]}
    case $code in
    0) ended="done" ;;
    75 | 124 | 137) ended="stopped at its limit of $limit s" ;;
    *) ended="failed with exit code $code" ;;
    esac
    ((code)) && failed=1
    say "$stage: $ended, after $((SECONDS - began)) s"
    cp "$status" "$results/status.txt"
    gather || say "$stage: its results could not be gathered into $out/$part.tgz"
done
say "everything, also what is large, lies in $work"
exit "$failed"
