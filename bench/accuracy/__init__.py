"""How accurate the trainer's models are: real data, published protocol, the file that serves."""
