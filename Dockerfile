# empiarfs in a container.
#
#   docker build -t empiarfs .
#   docker run --rm empiarfs ls -l 10028/data           # ls, stat and cat need no privileges
#
# A mount that the host sees (the options are explained in docs/running.md):
#
#   sudo mkdir -p /srv/empiar
#   docker run --rm --name empiar --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
#       --mount type=bind,source=/srv/empiar,target=/srv/empiar,bind-propagation=rshared \
#       --volume empiar-cache:/cache empiarfs mount --foreground --allow-other /srv/empiar 10028
#   docker stop empiar                                   # unmounts

FROM python:3.13-slim AS build
COPY . /src
RUN python -m venv /opt/empiarfs && /opt/empiarfs/bin/pip install --no-cache-dir /src

FROM python:3.13-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends fuse3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/empiarfs /opt/empiarfs
# a mount in the foreground logs to standard error, which is the container's log
ENV PATH=/opt/empiarfs/bin:$PATH EMPIARFS_CACHE_DIR=/cache
VOLUME /cache
ENTRYPOINT ["empiarfs"]
CMD ["--help"]
