#!/usr/bin/env bash
# Start the server's side, Flower's SuperLink, with TLS and with owners known by their keys. Ends with Ctrl-C.
#
# start_server.sh [--host 0.0.0.0] [--port 8000] [--folder federation]
#
# --folder  where make_certificates.sh server has put server.key, server.pem and ca.pem.
# --host    address to listen at.
# Owners reach the port from outside; runs are started, and owners' keys registered, from this host alone (run.sh).
# It remembers nothing: started again, it wants run.sh again, and the run goes on after its last whole round.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

host=0.0.0.0 port=8000 folder=federation
while [[ $# -gt 0 ]]; do
  case $1 in
    --host) host=$(take "$@") ;;
    --port) port=$(take "$@") ;;
    --folder) folder=$(take "$@") ;;
    -h | --help) usage ;;
    *) die "$1: no such option (--help lists them)" ;;
  esac
  shift 2
done
need_number --port "$port"
need_flower
for file in ca.pem server.pem server.key; do
  need_file "$folder/$file" "make it with make_certificates.sh server --address HOST --folder $folder"
done
umask 077
FLWR_HOME=$(realpath "$folder")/flower
export FLWR_HOME
exec python -m lightning_app.federated.flower.superlink --host "$host" --port "$port" \
  --ssl-ca-certfile "$folder/ca.pem" --ssl-certfile "$folder/server.pem" --ssl-keyfile "$folder/server.key" \
  --enable-supernode-auth --disable-runtime-dependency-installation
