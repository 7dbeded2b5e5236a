"""celery-fastapi's service: ``uvicorn benchmarks.celery_fastapi:service``."""

from celery_fastapi import create_app

service = create_app("benchmarks.celery_app:app")
