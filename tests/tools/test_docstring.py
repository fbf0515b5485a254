"""What a docstring says of each parameter is read in the styles that people write."""

from collections.abc import Callable
from typing import Any

import pytest

from pathors_agent.tools.docstring import read_docstring
from pathors_agent.tools.tool import Tool

# Each says "The width." of x and "The height." of y.
BOTH = {
    "args": """Draw.

        Args:
            x: The width.
            y (int, optional): The height.

        Returns:
            A picture.
        """,
    "args, as the first line": """Args:
            x: The width.
            y: The height.
        """,
    "args and returns, as the first lines": """Args:
            x: The width.
            y: The height.

        Returns:
            A picture.
        """,
    "parameters of numpy, as the first line": """Parameters
        ----------
        x : int
            The width.
        y : int
            The height.
        """,
    "fields of sphinx, as the first line": """:param x: The width.
        :param int y: The height.
        """,
    "keyword args": """Draw.

        Args:
            x: The width.

        Keyword Args:
            y: The height.
        """,
    "keyword arguments alone": """Draw.

        Keyword Arguments:
            x: The width.
            y: The height.
        """,
    "other parameters": """Draw.

        Parameters:
            x: The width.

        Other Parameters:
            y: The height.
        """,
    "two sections": """Draw.

        Args:
            x: The width.

        Raises:
            ValueError: Never.

        Args:
            y: The height.
        """,
    "small letters": """Draw.

        arguments:
            x: The width.
            y: The height.
        """,
    "backticks": """Draw.

        Args:
            `x`: The width.
            ``y`` (`int`): The height.
        """,
    "stars": """Draw.

        Args:
            *x: The width.
            **y** (dict[str, Callable[[int], str]]): The height.
        """,
    "list": """Draw.

        Args:
            - x: The width.
            * `y` (int): The height.
        """,
    "markdown": """Draw.

        **Args:**
        - **x** (int): The width.
        - **y**: The height.
        """,
    "heading of markdown": """Draw.

        ### Arguments

            x: The width.
            y: The height.
        """,
    "dashes": """Draw.

        Args:
            x - The width.
            y -- The height.
        """,
    "a line that is no entry": """Draw.

        Args:
            All are in pixels
            x: The width.
            y: The height.
        """,
    "tabs": "Draw.\n\n\tArgs:\n\t\tx: The width.\n\t\ty: The height.\n",
    "text on the next line": """Draw.

        Args:
            x:
                The width.

            y:
                The height.
        """,
    "numpy": """Draw.

        Parameters
        ----------
        `x` : int
            The width.
        ``y`` : int, optional
            The height.

        Returns
        -------
        str
            A picture.
        """,
    "numpy with a short line": """Draw.

        Parameters
        ---
        x : int
            The width.
        y : int
            The height.
        """,
    "other parameters of numpy": """Draw.

        Parameters
        ----------
        x : int
            The width.

        Other Parameters
        ----------------
        y : int
            The height.
        """,
    "types in three pairs of parentheses": """Draw.

        Args:
            x (tuple(int, (int, str))): The width.
            y (int): The height.
        """,
    "a space before the colon": """Draw.

        Arguments :
            x : The width.
            y : The height.
        """,
    "keyword arguments of numpy": """Draw.

        Parameters
        ----------
        x : int
            The width.

        Keyword Arguments
        -----------------
        `y` : int
            The height.
        """,
    "sphinx": """Draw.

        :param x: The width.
        :keyword int y: The height.
        :returns: A picture.
        """,
    "backticks of sphinx": """Draw.

        :param `x`: The width.
        :kwarg ``y``: The height.
        """,
    "epydoc": """Draw.

        @param x: The width.
        @param y: The height.
        """,
    "two styles": """Draw.

        Args:
            x: The width.

        :param y: The height.
        """,
}


def documented(text: str | None) -> Callable[..., Any]:
    def function(x: int, y: int = 1) -> None: ...

    function.__doc__ = text
    return function


@pytest.mark.parametrize("style", BOTH)
def test_parameters_are_described_in_each_style(style: str) -> None:
    made = Tool.from_function(documented(BOTH[style]))

    said = {name: shown.get("description") for name, shown in made.parameters["properties"].items()}
    assert said == {"x": "The width.", "y": "The height."}
    assert made.description == ("" if "first line" in style else "Draw.")


def test_lines_of_an_entry_stay_together() -> None:
    read = read_docstring(
        documented("""Draw: a picture.

        Args:
            x: The width: in pixels,
                e.g. 3.
            z, y: The others.
        """)
    )

    assert read.description == "Draw: a picture."
    assert read.parameters == {
        "x": "The width: in pixels,\ne.g. 3.",
        "z": "The others.",
        "y": "The others.",
    }


@pytest.mark.parametrize("title", ["## Returns", "**Returns**", "**Returns:**", "Returns:"])
def test_list_of_parameters_ends_at_the_next_title(title: str) -> None:
    text = (
        f"Draw.\n\n## Parameters\n\n- `x`: The width.\n- `y`: The height.\n\n{title}\n\nA picture."
    )

    read = read_docstring(documented(text))

    assert read.parameters == {"x": "The width.", "y": "The height."}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Draw.",
        "Draw.\n\nArgs:",
        "Draw.\n\nArgs:\n",
        "Draw.\n\nArgs: none.",
        "Draw.\n\nNote:\n    x: not a parameter",
        ":param",
        "Args",
    ],
)
def test_text_without_parameters_describes_none(text: str | None) -> None:
    read = read_docstring(documented(text))

    assert read.parameters == {}
    assert read.description == (text or "").strip()


class Shape:
    def area(self, width: int) -> int:
        """Return an area.

        Args:
            width: The width.
        """
        return width

    def __call__(self, width: int) -> int:
        """Draw."""
        return width


class Square(Shape):
    def area(self, width: int) -> int:
        return width * width

    def __call__(self, width: int) -> int:
        return width


def test_method_has_the_docstring_of_its_base_class() -> None:
    square = Square()

    area, drawn = read_docstring(square.area), read_docstring(square)

    assert (area.description, area.parameters) == ("Return an area.", {"width": "The width."})
    assert drawn.description == "Draw."
