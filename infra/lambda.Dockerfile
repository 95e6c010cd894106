# The Lambda function as a container image: the package that `sam build` makes, in AWS's own base image.
# From the top of the repository, on a machine of the function's architecture:
#
#   docker build -f infra/lambda.Dockerfile -t nexus-lambda:0.1.0 .
#
# With your own handlers, a folder inside the build context: --build-arg HANDLERS=path/to/handlers

ARG BASE=public.ecr.aws/lambda/python:3.13

FROM ${BASE} AS build
WORKDIR /build
RUN ["python3.13", "-m", "venv", "/tools"]
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# What compiles the handlers. The libraries alone first: their layer outlives changes of our code.
COPY pyproject.toml constraints.txt ./
RUN /tools/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt \
    && /tools/bin/pip install --quiet --only-binary=:all: -c constraints.txt -r requirements.txt

COPY infra/lambda infra/lambda
COPY nexus_core nexus_core
COPY functions functions
ARG HANDLERS=handlers
COPY ${HANDLERS} handlers
# uname says aarch64 where Lambda says arm64.
RUN /tools/bin/python infra/lambda/package.py --arch "$(uname -m | sed s/aarch64/arm64/)" --out /package

FROM ${BASE}
COPY --from=build /package /var/task
# As in template.yaml; tokens or NEXUS_AUTH=off are left to who deploys it.
ENV NEXUS_HANDLERS_DIR=/var/task/handlers \
    NEXUS_CACHE_SEED_DIR=/var/task/seed \
    NEXUS_MIN_INSTANCES=1 \
    NEXUS_STORE_URL=memory: \
    POWERTOOLS_METRICS_NAMESPACE=Nexus
CMD ["functions.aws_lambda.entry.handler"]
