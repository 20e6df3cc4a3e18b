"`python -m deepfake_nb` is the command `deepfake-nb`, for launchers that start modules"

from .cli import main

if __name__=='__main__': main()
