# docker build -t msseg -t msseg:0.1.0 .
# docker build -t msseg:cuda --build-arg TORCH=torch==2.13.0 .
# docker run --rm -v BIDS:/bids:ro -v OUT:/out msseg /bids /out participant

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS libraries
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

FROM ${BASE}
ARG VERSION=0.1.0
# what outputs say that they come from; name a registry where the image goes to one
ARG IMAGE=msseg:${VERSION}
LABEL org.opencontainers.image.title="bids_msseg" \
      org.opencontainers.image.description="Multiple-sclerosis lesion segmentation as a BIDS App; research use, no diagnosis" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --user-group --create-home --shell /usr/sbin/nologin msseg
COPY --from=libraries /opt/msseg /opt/msseg
COPY --from=templates /opt/templates /opt/templates
COPY --from=package /opt/added /opt/msseg
ENV PATH=/opt/msseg/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    BIDS_MSSEG_TEMPLATES=/opt/templates \
    BIDS_MSSEG_IMAGE=${IMAGE}
USER msseg
HEALTHCHECK NONE
ENTRYPOINT ["msseg"]
