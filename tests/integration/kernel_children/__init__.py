"""What the kernel's tests run in processes of their own."""
