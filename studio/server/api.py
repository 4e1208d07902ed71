"""The REST API. (being written)"""

from starlette.applications import Starlette


def make_api():
    return Starlette()
