# docker build -t msseg -t msseg:0.1.0 .
# docker build -t msseg:cuda --build-arg TORCH=torch==2.13.0 .
# docker run --rm -v BIDS:/bids:ro -v OUT:/out msseg /bids /out participant
#
# BASE_DIGEST pins the base image. This command prints the digest of the day:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'

ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG BASE_DIGEST=

FROM ${BASE}${BASE_DIGEST:+@${BASE_DIGEST}} AS libraries
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY tools/install_image.sh requirements.lock ./
RUN sh install_image.sh libraries /opt/msseg

FROM libraries AS templates
RUN sh install_image.sh templates /opt/msseg /opt/templates

FROM libraries AS package
COPY setup.py pyproject.toml README.md LICENSE ./
COPY bids_msseg bids_msseg
RUN sh install_image.sh package /opt/msseg /opt/added

FROM ${BASE}${BASE_DIGEST:+@${BASE_DIGEST}}
RUN useradd --uid 1000 --user-group --create-home --shell /usr/sbin/nologin msseg
COPY --from=libraries /opt/msseg /opt/msseg
COPY --from=templates /opt/templates /opt/templates
COPY --from=package /opt/added /opt/msseg
# arguments that change with every build come last, so that the layers above stay cached
ARG BASE
ARG BASE_DIGEST
ARG VERSION=0.1.0
# what outputs say that they come from; a release gives its public name
ARG IMAGE=msseg:${VERSION}
ARG SOURCE=https://github.com/owner_to_be_set/bids_msseg
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="bids_msseg" \
      org.opencontainers.image.description="Multiple-sclerosis lesion segmentation as a BIDS App; research use only" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
ENV PATH=/opt/msseg/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BIDS_MSSEG_TEMPLATES=/opt/templates \
    BIDS_MSSEG_IMAGE=${IMAGE}
USER msseg
HEALTHCHECK NONE
ENTRYPOINT ["msseg"]
CMD ["--help"]
