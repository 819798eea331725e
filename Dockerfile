# Airflow's own image with this project's wheel and the exact dependencies its tests ran with.

FROM apache/airflow:3.3.2-python3.11 AS build
WORKDIR /tmp/project
COPY --chown=airflow:root pyproject.toml requirements.lock README.md LICENSE ./
COPY --chown=airflow:root plugins plugins
COPY --chown=airflow:root include include
COPY --chown=airflow:root dags dags
RUN uv build --wheel --build-constraints requirements.lock --require-hashes --out-dir /tmp/wheel

FROM apache/airflow:3.3.2-python3.11
COPY --chown=airflow:root requirements-runtime.lock /tmp/
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements-runtime.lock
COPY --from=build --chown=airflow:root /tmp/wheel /tmp/wheel
RUN pip install --no-cache-dir --no-deps /tmp/wheel/*.whl
COPY --chown=airflow:root dags /opt/airflow/dags
COPY --chown=airflow:root include /opt/airflow/include
# Named volumes take over the owner of the folder they cover.
RUN mkdir -p /opt/airflow/archive /opt/airflow/private
USER 50000:0
