#!/bin/sh
# Fetches a Chromium without a window for the tests of the page, with the libraries and fonts that it needs: from the npm package of
# @sparticuz, of one version and known bytes. It takes two minutes at most, or fails. usage: fetch-chromium.sh DIRECTORY
set -eu
out=$1
version=147.0.0 # 67 MB, 190 MB unpacked
sha512=4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ==
[ -x "$out/chromium" ] && exit 0
fail() {
    echo "no Chromium for the tests of the page: $1. Set OSTRAKON_CHROMIUM to one that is installed, or do without." >&2
    exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] || fail "only that of Linux x86_64 can be fetched"
command -v npm >/dev/null && command -v node >/dev/null || fail "npm, which fetches it, is missing"
mkdir -p "$out"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && timeout 120 npm pack --silent --fetch-retries 1 "@sparticuz/chromium@$version" >/dev/null) || fail "npm did not bring it"
archive=$work/sparticuz-chromium-$version.tgz
node -e '
    const [file, expected] = process.argv.slice(1);
    const found = require("crypto").createHash("sha512").update(require("fs").readFileSync(file)).digest("base64");
    process.exit(found === expected ? 0 : 1);
' "$archive" "$sha512" || fail "its digest is another than expected"
tar -C "$work" --no-same-owner -xzf "$archive"
for part in chromium al2023.tar fonts.tar; do
    node -e 'process.stdin.pipe(require("zlib").createBrotliDecompress()).pipe(process.stdout)' \
        <"$work/package/bin/$part.br" >"$work/$part"
done
for part in al2023 fonts; do tar -C "$work" --no-same-owner -xf "$work/$part.tar"; done
cat >"$work/fonts.conf" <<'CONF'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir prefix="relative">fonts</dir>
</fontconfig>
CONF
chmod +x "$work/chromium"
# Whether it starts: it is asked over its pipe, and ends with it.
printf '{"id":1,"method":"Browser.getVersion"}\0' |
    LD_LIBRARY_PATH=$work/lib FONTCONFIG_FILE=$work/fonts.conf timeout 30 sh -c 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1' \
        "$work/chromium" --headless --no-sandbox --no-zygote --disable-gpu --remote-debugging-pipe --user-data-dir="$work/profile" |
    grep -q '"product"' || fail "it does not start here"
for part in lib fonts fonts.conf chromium; do # The program last: it says that all is there.
    rm -rf "${out:?}/$part"
    mv "$work/$part" "$out/$part"
done
