#!/usr/bin/env bash
# What a GPU is asked for in few minutes: tests, studies, speed. Results go to $OUT; a part that fails ends no other.
# Seconds for each part, 0 leaves it out: TESTS_S, STUDIES_S (after which no run is begun), SPEED_S.
# What it needs lies in the ignored folders .whl (wheels of what the machine lacks) and .gpu (lfw112.tgz: the study's
# images as data/README.md of LFW-a describes them; study_*.txt; masks.tgz: the folder masks/ with what the configs say to draw;
# eigenfaces.safetensors, where PEEP is to be trained: of `eigenfaces`, whose people are not in the archive).
# On Python 3.12 with torch 2.11 there lacked jsonargparse, docstring_parser, typeshed_client, importlib_resources, captum,
# cryptography, cffi, pycparser. study_train_people.txt: only people whose images are in the archive.
# Tried on the CPU: FACEVEIL_GPU_DEVICE=cpu bash benchmarks/gpu.sh
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-$(mktemp -d)} WORK=$(mktemp -d)
DEVICE=${FACEVEIL_GPU_DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
export OUT PYTHONUNBUFFERED=1 PYTHONPATH=$PWD PYTORCH_NVML_BASED_CUDA_CHECK=1  # asks without touching the GPU, so that a fork can use it
mkdir -p "$OUT"
if [ -d .whl ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$WORK/site" .whl/*.whl
  export PYTHONPATH=$WORK/site:$PWD
fi
if [ -d .gpu ] && [ ! -e data/lfw ]; then
  mkdir -p data keys
  tar xzf .gpu/lfw112.tgz -C data && mv data/lfw112 data/lfw
  cp .gpu/*.txt data/
  [ ! -e .gpu/eigenfaces.safetensors ] || (umask 077 && cp .gpu/eigenfaces.safetensors keys/)
  tar xzf .gpu/masks.tgz
  [ -e keys/owner.key ] || (umask 077 && "$PYTHON" -c 'import os; print(os.urandom(32).hex())' >keys/owner.key)
fi

part() { # name, seconds, command …: its output to the log and to the screen's end
  local name=$1 seconds=$2 begun=$SECONDS
  shift 2
  [ "$seconds" = 0 ] && return
  timeout -k 10 "$seconds" "$@" >"$OUT/$name.log" 2>&1
  echo "== $name: exit code $? after $((SECONDS - begun)) s"
  tail -n 45 "$OUT/$name.log" | cut -c -180
}

# (a) numbers and fits: is it right? Beside the studies, which are not timed
part tests "${TESTS_S:-180}" "$PYTHON" -m pytest tests/gpu -m gpu --gpu-device "$DEVICE" -n 4 --timeout 120 -q -ra \
  --tb short --junitxml "$OUT/tests.xml" -p no:cacheprovider -p no:benchmark &
# (c) studies; with CUDA graphs where these train here
STUDIES_S=${STUDIES_S:-0} MORE='[]'
if [ "$STUDIES_S" != 0 ]; then
  timeout 90 "$PYTHON" main.py fit --config lfwa_cost_mask.yaml --data.reader.init_args.crop=112 --data.cache=device \
    --model.cuda_graphs=true --trainer.max_steps=60 --trainer.limit_val_batches=0 --name probe --overwrite >"$WORK/probe.log" 2>&1
  echo "probe of CUDA graphs: exit code $?"
  grep -q "cannot be captured" "$WORK/probe.log" || [ ! -f runs/probe/metrics.json ] && MORE='[--model.cuda_graphs=false]'
  tail -n 25 "$WORK/probe.log" | cut -c -150
  echo "studies take $MORE"
fi
OMP_NUM_THREADS=1 part studies "$((STUDIES_S ? STUDIES_S + 120 : 0))" "$PYTHON" -m benchmarks.gpu_studies \
  "${PLAN:-benchmarks/gpu_studies.yaml}" --workers "${WORKERS:-3}" --seconds "$STUDIES_S" --only "${ONLY:-}" --more "$MORE" --out "$OUT"
wait
# (b) how fast is it? Alone
part speed "${SPEED_S:-200}" "$PYTHON" -m benchmarks.gpu --out "$OUT" --device "$DEVICE" --budget "${BUDGET_S:-150}"
exit 0
