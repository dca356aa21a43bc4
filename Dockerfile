# Targets: cpu, cuda. `docker build --target cpu -t tv3sd:cpu .`, or buildah, podman.
#
# BASE is any Debian 12; CUDA_IMAGE any image with a toolkit in /usr/local/cuda that takes gcc 12
# (12.0 and newer), of which nvcc is used for building and one library, cublasLt, goes into the result.
#
# What takes the space of cpu, 333 MB as `make image-test` measures it (MB as installed): Debian itself
# 72; FFmpeg and the 80 libraries that it needs about 200, of which ICU 36, Intel's Media SDK 27,
# codec2 16, x265 16, libavcodec 15, librsvg 11, SVT-AV1 7; oneDNN 39; tv3sd, tv3s, model and clip 7.
# cuda by toolkit 13.0 (`make image-cuda`) has 907 MB: of those cublasLt 542, and the two programs with
# their kernels 34. CUDA_IMAGE as it stands below has not been tried.
ARG BASE=debian:bookworm-slim
ARG CUDA_IMAGE=nvidia/cuda:12.4.1-devel-ubuntu22.04

# ---- what both are built with -------------------------------------------------------------------
FROM ${BASE} AS source
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update -q && apt-get install -qy --no-install-recommends make
WORKDIR /src
COPY . .
RUN make deps-demo

FROM source AS build
RUN make -j"$(nproc)" OPT=-O2 && make install-files CLIENT=0 PREFIX=/usr DESTDIR=/out && strip /out/usr/bin/*

FROM ${CUDA_IMAGE} AS toolkit
FROM source AS build-cuda
RUN apt-get install -qy --no-install-recommends g++
COPY --from=toolkit /usr/local/cuda /usr/local/cuda
RUN make -j"$(nproc)" CUDA=1 OPT=-O2 && \
    make install-files CUDA=1 CLIENT=0 PREFIX=/usr DESTDIR=/out && strip /out/usr/bin/* && \
    mkdir -p /out/usr/local/cuda/lib64 && \
    cp -L /usr/local/cuda/lib64/libcublasLt.so.?? /out/usr/local/cuda/lib64/

# ---- what both run on ---------------------------------------------------------------------------
FROM ${BASE} AS runtime
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        libdnnl2 libgomp1 libjansson4 libzip4 libspng0 libavformat59 libavcodec59 libavutil57 \
        libswscale6 libmicrohttpd12 libwebsockets17 libsqlite3-0 libhiredis0.14 libgnutls30 libssl3 \
        zlib1g libseccomp2 libcurl3-gnutls ca-certificates && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt /usr/share/doc \
        /usr/share/man /usr/share/locale && \
    mkdir -m 700 /var/lib/tv3sd && chown 65532:65532 /var/lib/tv3sd
# Without TV3SD_KEYS_FILE it does not start on such an address, unless TV3SD_OPEN_ACCESS=true.
ENV TV3SD_LISTEN=0.0.0.0 \
    TV3SD_MODELS=/usr/share/tv3sd/models/street.safetensors \
    TV3SD_SPOOL=/var/lib/tv3sd
# The one place that is written: a volume, where the root file system is read-only.
VOLUME /var/lib/tv3sd
USER 65532:65532
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/bin/bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ code _ <&3 && [ $code = 200 ]"]
ENTRYPOINT ["/usr/bin/tv3sd"]
LABEL org.opencontainers.image.title="tv3sd" \
    org.opencontainers.image.description="Video segmentation that remembers (TV3S)" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.documentation="/usr/share/doc/tv3sd/docs/operating.md"

FROM runtime AS cuda
ENV TV3SD_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=build-cuda /out/usr /usr
ARG VERSION=unknown
LABEL org.opencontainers.image.version="${VERSION}"

FROM runtime AS cpu
COPY --from=build /out/usr /usr
ARG VERSION=unknown
LABEL org.opencontainers.image.version="${VERSION}"
