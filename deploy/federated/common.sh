# shellcheck shell=bash
# What the scripts of a deployment share; sourced, not run.

export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v flower-supernode >/dev/null && [[ -x $root/.venv/bin/flower-supernode ]]; then
  PATH=$root/.venv/bin:$PATH
fi

die() {
  echo "error: $*" >&2
  exit 1
}

need_command() {
  command -v "$1" >/dev/null || die "$1 is not here: $2"
}

need_flower() {
  need_command flower-supernode "pip install -e '.[federated]', and activate its environment"
  need_command python "activate the environment FaceVeil is installed in"
}

need_file() {
  [[ -f $1 ]] || die "$1 is not there: $2"
}

# runs_of ARGUMENTS: a line "NUMBER STATUS" for each run that `flwr list` tells of
runs_of() {
  flwr list faceveil "$@" --format json 2>/dev/null |
    python -c 'import json, sys; [print(run["run-id"], run["status"]) for run in json.load(sys.stdin)["runs"]]' 2>/dev/null
}

# take VALUE "$@": the value of the option that is read now
take() {
  [[ $# -ge 2 && -n $2 ]] || die "$1: give a value"
  printf '%s' "$2"
}

# The comment at the head of a script is its help.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}

need_number() {
  [[ $2 =~ ^[0-9]+$ ]] || die "$1 $2: give a whole number"
}
