#!/usr/bin/env bash
# The two OCI images, without a daemon: the filter's module as Istio and Envoy Gateway expect it
# (one layer with /plugin.wasm), and the control plane (one static program, a data directory).
#
#   envoy/images.sh [OUT]        builds and packs both, OUT/module and OUT/control-plane
#                                (OCI layouts; default target/images), and verifies them
#   envoy/images.sh files OUT    builds only, and lays out the files of both: what the
#                                Dockerfile copies
#   envoy/images.sh pack OUT     packs what `files` laid out
#   envoy/images.sh verify OUT   unpacks both again and compares
#
# Push one with: skopeo copy oci:OUT/module docker://registry.example.com/ipwarden-filter:VERSION
#
# The same sources give the same bytes: no path of this machine is compiled in (.ci/remap), and
# times in the images are 0. Needs buildah, umoci and skopeo (Debian: apt-get install
# buildah umoci skopeo), musl-gcc (musl-tools), and the Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="$PWD/target"

STATIC_TARGET="$(uname -m)-unknown-linux-musl"
NOBODY=65532

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

version() { awk '/^\[workspace.package\]/ { on = 1 } on && /^version = / { gsub(/[^0-9A-Za-z.+-]/, "", $3); print $3; exit }' Cargo.toml; }

sha256() { sha256sum "$1" | cut -d ' ' -f 1; }

# files OUT: OUT/files/module/plugin.wasm and OUT/files/control-plane/…
files() {
  local out=$1
  make --no-print-directory module
  rustup target list --installed | grep -qx "$STATIC_TARGET" || rustup target add "$STATIC_TARGET"
  command -v musl-gcc >/dev/null || fail "musl-gcc is missing" "Debian: apt-get install musl-tools"
  local variable=${STATIC_TARGET//-/_}
  env "CC_$variable=musl-gcc" "CARGO_TARGET_${variable^^}_RUSTFLAGS=$(.ci/remap)" \
    cargo build --release --target "$STATIC_TARGET" -p ipwarden-control-plane
  rm -rf "$out/module" "$out/control-plane"
  mkdir -p "$out/module" "$out/control-plane/data" "$out/control-plane/run/ipwarden"
  cp target/wasm32-wasip1/wasm/ipwarden.wasm "$out/module/plugin.wasm"
  cp "target/$STATIC_TARGET/release/ipwarden" "$out/control-plane/ipwarden"
  # For downloads over TLS: the roots that this machine trusts.
  mkdir -p "$out/control-plane/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$out/control-plane/etc/ssl/certs/"
  chmod 644 "$out/module/plugin.wasm"
  chmod 755 "$out/control-plane/ipwarden"
  # Volumes start as what is beneath them; packing makes them nobody's, who runs the program.
  chmod 700 "$out/control-plane/data" "$out/control-plane/run/ipwarden"
  printf 'plugin.wasm sha256 %s\n' "$(sha256 "$out/module/plugin.wasm")"
}

# pack OUT: OUT/files as two OCI layouts.
pack() {
  local out=$1 version name container file
  version=$(version)
  for tool in buildah umoci skopeo; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "Debian: apt-get install $tool"
  done
  # No daemon, no root but what the user namespace gives, and a store of our own.
  export BUILDAH_ISOLATION=chroot
  local storage=(--root "$out/.storage" --runroot "$out/.run" --storage-driver vfs)
  for name in module control-plane; do
    container=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" copy --quiet --chown 0:0 "$container" "$out/files/$name/" / >/dev/null
    buildah "${storage[@]}" config --created-by "envoy/images.sh" \
      --label "org.opencontainers.image.version=$version" \
      --label "org.opencontainers.image.licenses=Apache-2.0" "$container"
    if [ "$name" = control-plane ]; then
      for file in data run/ipwarden; do
        buildah "${storage[@]}" copy --quiet --chown "$NOBODY:$NOBODY" "$container" \
          "$out/files/$name/$file" "/$file" >/dev/null
      done
      buildah "${storage[@]}" config --user "$NOBODY:$NOBODY" --port 8088 --volume /data \
        --env IPWARDEN_LISTEN=0.0.0.0:8088 --env IPWARDEN_DATA_DIR=/data \
        --entrypoint '["/ipwarden"]' --cmd serve "$container"
    else
      buildah "${storage[@]}" config --label "module.wasm.image/variant=compat" "$container"
    fi
    rm -rf "${out:?}/$name"
    buildah "${storage[@]}" commit --quiet --rm --timestamp 0 --format oci "$container" \
      "oci:$out/$name:$version" >/dev/null
  done
  rm -rf "${out:?}/.storage" "$out/.run"
}

# verify OUT: what is in the images is what was built.
verify() {
  local out=$1 version name file unpacked
  version=$(version)
  for name in module control-plane; do
    skopeo inspect --format "{{.Digest}}" "oci:$out/$name:$version" >/dev/null
    unpacked=$(mktemp -d)
    umoci unpack --rootless --image "$out/$name:$version" "$unpacked/bundle" >/dev/null
    file=plugin.wasm
    [ "$name" = module ] || file=ipwarden
    if [ "$(sha256 "$unpacked/bundle/rootfs/$file")" != "$(sha256 "$out/files/$name/$file")" ]; then
      fail "$file in the image is not the one that was built"
    fi
    printf '%s: %s in %s has sha256 %s, image %s\n' "$name" "$file" "oci:$out/$name:$version" \
      "$(sha256 "$unpacked/bundle/rootfs/$file")" \
      "$(skopeo inspect --format "{{.Digest}}" "oci:$out/$name:$version")"
    chmod -R u+rwX "$unpacked"
    rm -rf "$unpacked"
  done
}

case ${1:-target/images} in
  files) files "${2:?where to}" ;;
  pack) pack "$(realpath "${2:?where to}")" ;;
  verify) verify "$(realpath "${2:?which}")" ;;
  *)
    out=${1:-target/images}
    mkdir -p "$out"
    out=$(realpath "$out")
    files "$out/files"
    pack "$out"
    verify "$out"
    ;;
esac
