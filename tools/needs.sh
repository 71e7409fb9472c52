# shellcheck shell=bash
# Sourced by the tools: what they need is there, or is installed, or they say what to do.

PATH=$PATH:/usr/sbin:/sbin

# needs COMMAND=PACKAGE...: installs the Debian packages whose commands are missing. Only root can;
# for others it names the one command that root has to run.
needs() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "${0##*/}: Missing, and only root of a Debian system can install it: ${packages[*]}" >&2
        echo "  hint: apt-get install ${packages[*]}" >&2
        exit 8
    fi
    echo "Installing ${packages[*]} ..." >&2
    {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
    } >/dev/null || {
        echo "${0##*/}: apt-get could not install ${packages[*]}" >&2
        exit 8
    }
}

# needs_cargo [SUBCOMMAND...]: a Rust toolchain that is new enough, with these parts.
needs_cargo() {
    local wanted have part
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
    have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
    if [ "$(printf '%s\n' "$wanted" "${have:-0}" | sort -V | head -n 1)" != "$wanted" ]; then
        echo "${0##*/}: Needs Rust $wanted or newer, found ${have:-none}" >&2
        echo "  hint: https://rustup.rs, or: rustup update stable" >&2
        exit 8
    fi
    for part in "$@"; do
        cargo "$part" --version >/dev/null 2>&1 || {
            echo "${0##*/}: Rust's own tool is missing: cargo $part" >&2
            echo "  hint: rustup component add rustfmt clippy" >&2
            exit 8
        }
    done
}
