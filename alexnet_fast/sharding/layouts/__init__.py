"""One module a form in which people have ImageNet: `fits(src)` recognises it, `read(src)` lists its images."""
