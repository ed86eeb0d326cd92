#!/bin/sh
# Makes cpp/backend/cuda/ptx of the kernels, with clang 19 and no CUDA toolkit: sh tools/cuda/make_ptx.sh [FOLDER]
# A driver makes what its GPU needs of the PTX of any older generation. 5.3 (Jetson Nano) is the oldest; only kernels
# that use more are made for others, too: 6.1 has dot products of bytes, 7.5 and 8.0 products of matrices of bytes. PTX
# 6.0 and 6.5 load on JetPack 4.6's drivers, 7.0 on those of CUDA 11.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
kernels=$here/cpp/backend/cuda/kernels
out=${1:-$here/cpp/backend/cuda/ptx}
clang=${CLANG:-clang++-19}
mkdir -p "$out"
"$clang" --version | head -n 1 >"$out/clang.txt" # others may make other PTX of the same kernels
for each in attention:53:60 inputs:53:60 likeliest:53:60 rows:53:60 matvec:53:60 matvec:61:60 matmul:53:60 matmul:61:60 matmul:75:65 matmul:80:70 \
    peak:53:60 peak:61:60 peak:75:65 peak:80:70; do
  name=${each%%:*} version=${each##*:} sm=${each#*:} sm=${sm%:*}
  "$clang" -x cuda --cuda-device-only --cuda-gpu-arch=sm_$sm --cuda-path=/nonexistent -nocudainc -nocudalib \
      --cuda-feature=+ptx$version -std=c++17 -ffp-contract=off -O3 -mllvm -inline-threshold=100000 -Wall -Wextra -I "$kernels" \
      -S "$kernels/$name.cu" -o "$out/$name.tmp"
  sed -e 's|[[:space:]]*//.*$||' -e '/^[[:space:]]*$/d' "$out/$name.tmp" >"$out/${name}_$sm.ptx" # without comments
  rm "$out/$name.tmp"
done
