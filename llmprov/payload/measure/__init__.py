"""What this machine can do, measured with torch: memory, matrices, training, data, fine-tuning, several GPUs.

Every module takes the torch module and a device, and returns checks and measurements as the document has them.
"""
