"""`python -m alexnet_fast` is `alexnet-fast`; torchrun starts it this way."""

from alexnet_fast.cli import main

if __name__ == "__main__":
    main()
