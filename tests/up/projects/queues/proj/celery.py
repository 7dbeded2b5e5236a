from celery import Celery

app = Celery("proj", broker="amqp://", include=["proj.tasks"])
app.conf.task_routes = {"proj.tasks.mul": {"queue": "heavy"}}
