#!/usr/bin/env bash
# Let the server's side know its owners, start the federation, and show its log. On the server's host.
#
# run.sh --config server.yaml [--name federated] [--runs runs] [--folder federation] [--port 8000]
#
# --config  the server's YAML: model, mask, rounds, what it verifies on.
# --name    the run's folder is runs/<name>; given again after a kill, it goes on after the last whole round.
# --folder  that of start_server.sh; the keys in DIR/owners/*.pub are registered, and no others.
# --port    that of start_server.sh.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config="" name=federated runs=runs folder=federation port=8000
while [[ $# -gt 0 ]]; do
  case $1 in
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
[[ -n $config ]] || die "--config: give the server's YAML, such as deploy/federated/server.yaml"
need_number --port "$port"
need_flower
need_file "$config" "copy deploy/federated/server.yaml"
need_file "$folder/ca.pem" "start the server first (start_server.sh)"
[[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "--name $name: give a plain name"
config=$(realpath "$config") runs=$(realpath -m "$runs") folder=$(realpath "$folder")
[[ $config$runs$folder != *\"* ]] || die "--config, --runs, --folder: no quotation marks in a path"
shopt -s nullglob
keys=("$folder"/owners/*.pub)
[[ ${#keys[@]} -gt 0 ]] || die "$folder/owners has no .pub: put there what make_certificates.sh owner made"

export FLWR_HOME=$folder/flower
umask 077
mkdir -p "$FLWR_HOME"
printf '[superlink]\ndefault = "faceveil"\n[superlink.faceveil]\naddress = "127.0.0.1:%s"\nroot-certificates = "%s"\n' \
  "$port" "$folder/ca.pem" >"$FLWR_HOME/config.toml"
for key in "${keys[@]}"; do
  owner=$(basename "$key" .pub)
  said=$(flwr supernode register "$key" faceveil --name "$owner" 2>&1) || true
  if [[ $said == *"registered successfully"* || $said == *"already in use"* ]]; then
    echo "$owner is registered"
  else
    die "$owner could not be registered: $said"
  fi
done

said=$(flwr run "$here" faceveil --format json \
  --run-config "config=\"$config\" name=\"$name\" runs=\"$runs\"" 2>&1) || die "the run was not started: $said"
number=$(grep -oE '"run-id": *"[0-9]+"' <<<"$said" | grep -oE '[0-9]+') || die "the run was not started: $said"
echo "run $number is started; flwr stop $number ends it (FLWR_HOME=$FLWR_HOME)"
flwr log "$number" faceveil --stream
ended=$(flwr list faceveil --run-id "$number" --format json)
[[ $ended == *finished:completed* ]] || die "run $number has not ended well: its log is above; given again, run.sh goes on"
