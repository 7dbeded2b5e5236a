"""What starts the service: the supervisor behind `make up`, the embedded server, and Flower with its password."""
