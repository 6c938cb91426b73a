#!/usr/bin/env bash
# What a GPU is asked for in few minutes: tests, speed, studies. Results go to $OUT; a part that fails ends no other.
# Tried on the CPU: FACEVEIL_GPU_DEVICE=cpu bash benchmarks/gpu.sh
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-$(mktemp -d)}
DEVICE=${FACEVEIL_GPU_DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
export OUT PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
mkdir -p "$OUT"
if [ -d .whl ]; then # what the machine lacks
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .whl/*.whl
  export PYTHONPATH=/tmp/site:$PWD
fi

part() { # name, seconds, command …: its output to the log and to the screen's end
  local name=$1 seconds=$2 begun=$SECONDS
  shift 2
  timeout -k 10 "$seconds" "$@" >"$OUT/$name.log" 2>&1
  echo "== $name: exit code $? after $((SECONDS - begun)) s"
  tail -n 45 "$OUT/$name.log"
}

# (a) numbers and fits: is it right?
part tests "${TESTS_S:-180}" "$PYTHON" -m pytest tests/gpu -m gpu --gpu-device "$DEVICE" -n 4 --timeout 120 -q -ra \
  --tb short --junitxml "$OUT/tests.xml" -p no:cacheprovider
# (b) how fast is it?
part speed "${SPEED_S:-200}" "$PYTHON" -m benchmarks.gpu --out "$OUT" --device "$DEVICE" --budget "${BUDGET_S:-150}"
# (c) studies: benchmarks/gpu_studies.py, started here once it is there
[ -f benchmarks/gpu_studies.py ] && [ -n "${STUDIES_S:-}" ] &&
  part studies "$STUDIES_S" "$PYTHON" -m benchmarks.gpu_studies --out "$OUT"
exit 0
