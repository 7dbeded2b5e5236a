from celery import shared_task
from django.db import connection


@shared_task
def ship(order: int) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [order])
        return f"order {cursor.fetchone()[0]} is shipped"
