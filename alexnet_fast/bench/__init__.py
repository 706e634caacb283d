"""`alexnet-fast bench`: how fast each stage of training is on this machine, and which one is the limit."""
