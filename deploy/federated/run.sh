#!/usr/bin/env bash
# Let the server's side know its owners, start the federation, and show its log. On the server's host.
#
# run.sh --config server.yaml [--name federated] [--runs runs] [--folder federation] [--port 8000]
# run.sh --register-only [--folder federation] [--port 8000]
#
# --config  the server's YAML: model, mask, rounds, what it verifies on.
# --name    the run's folder is runs/<name>; given again after a kill, it goes on after the last whole round.
# --folder  that of start_server.sh; the keys in DIR/owners/*.pub are registered, and no others.
# --port    that of start_server.sh.
# --register-only  register the keys that are new, and start nothing: for an owner that comes to a run that is on.
# Ctrl-C ends the log alone; the run goes on.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config="" name=federated runs=runs folder=federation port=8000 register_only=""
while [[ $# -gt 0 ]]; do
  case $1 in
    --register-only)
      register_only=1
      shift
      continue
      ;;
    --config) config=$(take "$@") ;;
    --name) name=$(take "$@") ;;
    --runs) runs=$(take "$@") ;;
    --folder) folder=$(take "$@") ;;
    --port) port=$(take "$@") ;;
    -h | --help) usage ;;
    *) die "$1: no such option (--help lists them)" ;;
  esac
  shift 2
done
[[ -n $config$register_only ]] || die "--config: give the server's YAML, such as deploy/federated/server.yaml"
need_number --port "$port"
need_flower
[[ -n $register_only ]] || need_file "$config" "copy deploy/federated/server.yaml"
need_file "$folder/ca.pem" "start the server first (start_server.sh)"
[[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "--name $name: give a plain name"
[[ -n $register_only ]] || config=$(realpath "$config")
runs=$(realpath -m "$runs") folder=$(realpath "$folder")
[[ $config$runs$folder != *\"* ]] || die "--config, --runs, --folder: no quotation marks in a path"
shopt -s nullglob
keys=("$folder"/owners/*.pub)
[[ ${#keys[@]} -gt 0 ]] || die "$folder/owners has no .pub: put there what make_certificates.sh owner made"

# handles NUMBER: how to follow a run, and to end it
handles() {
  local home
  home=$(printf 'FLWR_HOME=%q' "$FLWR_HOME")
  echo "its log: $home flwr log $1 faceveil; its end: $home flwr stop $1 faceveil"
}

export FLWR_HOME=$folder/flower
umask 077
mkdir -p "$FLWR_HOME"
printf '[superlink]\ndefault = "faceveil"\n[superlink.faceveil]\naddress = "127.0.0.1:%s"\nroot-certificates = "%s"\n' \
  "$port" "$folder/ca.pem" >"$FLWR_HOME/config.toml"

# Flower's list of runs has no names: for each that is started here a file tells its folder
run_dir=$runs/$name
ours=("$FLWR_HOME"/started-*)
if [[ -z $register_only && ${#ours[@]} -gt 0 ]]; then
  known=$(runs_of) || die "the server does not answer at port $port: start it first (start_server.sh)"
  for file in "${ours[@]}"; do
    number=${file##*-}
    state=$(sed -n "s/^$number //p" <<<"$known")
    if [[ -z $state || $state == finished* ]]; then
      rm "$file" # ended, or of a server that was started again since
    elif [[ $(<"$file") == "$run_dir" ]]; then
      die "$run_dir is being written by run $number, which is still $state: no second one is started; $(handles "$number")" \
        "(new owners' keys: --register-only)"
    fi
  done
fi
for key in "${keys[@]}"; do
  owner=$(basename "$key" .pub)
  said=$(flwr supernode register "$key" faceveil --name "$owner" 2>&1) || true
  if [[ $said == *"registered successfully"* ]]; then
    echo "$owner is registered"
  elif [[ $said == *"already in use"* ]]; then
    echo "$owner is registered already"
  else
    die "$owner could not be registered: $said"
  fi
done
[[ -z $register_only ]] || exit 0

said=$(flwr run "$here" faceveil --format json \
  --run-config "config=\"$config\" name=\"$name\" runs=\"$runs\"" 2>&1) || die "the run was not started: $said"
number=$(grep -oE '"run-id": *"[0-9]+"' <<<"$said" | grep -oE '[0-9]+') || die "the run was not started: $said"
printf '%s\n' "$run_dir" >"$FLWR_HOME/started-$number"
echo "run $number is started; $(handles "$number")"
trap : INT # flwr takes Ctrl-C for the end of the log, and this script says what of the run
flwr log "$number" faceveil --stream || true
state=$(runs_of --run-id "$number") ||
  die "the server does not answer any more: its own log says why; start_server.sh and run.sh again, the run goes on"
case ${state#* } in
  finished:completed) ;;
  finished*) die "run $number is ${state#* }, not completed: its log is above; given again, run.sh goes on" ;;
  *)
    echo "run $number is still ${state#* }; $(handles "$number")" >&2
    exit 130
    ;;
esac
