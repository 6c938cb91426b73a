#!/usr/bin/env bash
# Start an owner's side, Flower's SuperNode, and what trains for it. Ends with Ctrl-C.
#
# start_owner.sh --number 0 --config owner.yaml --server faces.example.org:8000 [--folder federation]
#                [--port 9094] [--retry 10]
#
# --number  of the owner, from 0; each owner another.
# --config  the owner's own YAML: model as the server's, its own data.
# --server  HOST:PORT of start_server.sh, as the certificate names it.
# --folder  with ca.pem of the server and owner-N.key of make_certificates.sh owner. The owner's files, mask and
#           private head, come into DIR/owner-N.
# --port    on this host alone, between the two processes; another for every owner on one host.
# --retry   seconds until the server is tried again when it is away or does not know this owner yet; 0: give up.
# Only the app that is installed here is run, whatever the server sends.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

number="" config="" server="" folder=federation port=9094 retry=10
while [[ $# -gt 0 ]]; do
  case $1 in
    --number) number=$(take "$@") ;;
    --config) config=$(take "$@") ;;
    --server) server=$(take "$@") ;;
    --folder) folder=$(take "$@") ;;
    --port) port=$(take "$@") ;;
    --retry) retry=$(take "$@") ;;
    -h | --help) usage ;;
    *) die "$1: no such option (--help lists them)" ;;
  esac
  shift 2
done
[[ -n $number ]] || die "--number: give the owner's number, from 0"
[[ -n $config ]] || die "--config: give the owner's YAML, such as deploy/federated/owner.yaml"
[[ $server == *:* ]] || die "--server $server: give HOST:PORT of the server"
for pair in "--number $number" "--port $port" "--retry $retry"; do
  # shellcheck disable=SC2086  # two words
  need_number $pair
done
need_flower
need_file "$config" "copy deploy/federated/owner.yaml, and name your faces in it"
need_file "$folder/ca.pem" "the server's operator gives it to you"
need_file "$folder/owner-$number.key" "make it with make_certificates.sh owner --number $number --folder $folder"
[[ $config$folder != *\"* ]] || die "--config, --folder: no quotation marks in a path"

umask 077
mkdir -p "$folder/owner-$number"
facts="config=\"$(realpath "$config")\" partition-id=$number folder=\"$(realpath "$folder/owner-$number")\""
node="" trains=""
stop() {
  # shellcheck disable=SC2086  # none, one or two
  kill $node $trains 2>/dev/null || true
  wait
  node="" trains=""
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
while true; do
  flower-supernode --superlink "$server" --root-certificates "$folder/ca.pem" \
    --auth-supernode-private-key "$folder/owner-$number.key" --node-config "$facts" \
    --isolation process --host 127.0.0.1 --port "$port" &
  node=$!
  python -m lightning_app.federated.flower.superexec --runtime-api-address "127.0.0.1:$port" --insecure --parent-pid "$node" &
  trains=$!
  wait -n "$node" "$trains" || true
  stop
  [[ $retry -gt 0 ]] || die "owner $number: no connection to $server (see above)"
  echo "owner $number: not connected to $server; tried again in $retry s (has its operator registered owner-$number.pub?)" >&2
  sleep "$retry" &
  wait $!
done
