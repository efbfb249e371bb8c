"""GPT-OSS from scratch: the library that the course's chapters build.

Every module but the few listed in ``book/_tools/course_map.py`` is exported from the chapter that
its docstring names, so the code you import is the code you read.
"""

__version__ = "0.1.0"
