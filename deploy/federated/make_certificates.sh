#!/usr/bin/env bash
# Make what a federation's parties identify themselves with. Nothing that is there is replaced.
#
# On the server's host:   make_certificates.sh server --address faces.example.org [--address 10.0.0.5] [--folder DIR]
# On each owner's host:   make_certificates.sh owner --number 0 [--folder DIR]
#
# server: DIR/ca.pem goes to every owner. DIR/server.key stays; DIR/ca.key signs the next server's certificate and
#         belongs off this host. The addresses are those by which owners reach the server; localhost is always among
#         them.
# owner:  DIR/owner-N.pub goes to the server, into its DIR/owners/. DIR/owner-N.key stays.
# DIR is `federation` by default.

set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

kind=${1:-}
[[ $kind == -h || $kind == --help ]] && usage
[[ $kind == server || $kind == owner ]] || die "first argument: give server or owner (--help says more)"
shift
folder=federation number="" days=825 addresses=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --folder) folder=$(take "$@") ;;
    --number) number=$(take "$@") ;;
    --days) days=$(take "$@") ;;
    --address) addresses+=("$(take "$@")") ;;
    -h | --help) usage ;;
    *) die "$1: no such option (--help lists them)" ;;
  esac
  shift 2
done

absent() {
  [[ ! -e $1 ]] || die "$1 is there already: it is not replaced; move it away, or give another --folder"
}

umask 077
if [[ $kind == owner ]]; then
  [[ -n $number ]] || die "--number: give the owner's number, from 0"
  need_number --number "$number"
  need_command ssh-keygen "install openssh-client"
  key=$folder/owner-$number.key
  absent "$key"
  absent "$folder/owner-$number.pub"
  mkdir -p "$folder"
  ssh-keygen -q -t ecdsa -b 384 -N "" -C "owner-$number" -f "$key"
  mv "$key.pub" "$folder/owner-$number.pub"
  echo "$folder/owner-$number.pub goes to the server, into its federation/owners/; $key stays here"
  exit 0
fi

[[ ${#addresses[@]} -gt 0 ]] || die "--address: give the name or address by which owners reach this server"
need_number --days "$days"
need_command openssl "install openssl 3"
for file in ca.key ca.pem server.key server.pem; do absent "$folder/$file"; done
mkdir -p "$folder/owners"
names=DNS:localhost,IP:127.0.0.1
for address in "${addresses[@]}"; do
  [[ $address =~ ^[A-Za-z0-9.:-]+$ ]] || die "--address $address: give a host's name or an IP address, without a port"
  if [[ $address =~ ^[0-9.]+$ || $address == *:* ]]; then names+=,IP:$address; else names+=,DNS:$address; fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/openssl.cnf" <<END
[req]
distinguished_name = name
prompt = no
[name]
CN = FaceVeil federation
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
END
curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
quietly() {
  "$@" 2>"$work/said" || die "$1 $2 failed: $(tail -n 3 "$work/said")"
}
quietly openssl req -x509 "${curve[@]}" -config "$work/openssl.cnf" -extensions authority -days 3650 \
  -keyout "$work/ca.key" -out "$work/ca.pem"
quietly openssl req "${curve[@]}" -config "$work/openssl.cnf" -subj "/CN=${addresses[0]:0:64}" \
  -keyout "$work/server.key" -out "$work/server.csr"
quietly openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
  -days "$days" -extfile "$work/openssl.cnf" -extensions server -out "$work/server.pem"
for file in ca.key ca.pem server.key server.pem; do mv "$work/$file" "$folder/$file"; done
echo "$folder/ca.pem goes to every owner; take $folder/ca.key off this host; the certificate ends in $days days"
