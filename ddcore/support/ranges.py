"""The numbers that are allowed: the fields of a configuration and the arguments of functions share
them, and what is said of another."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ddcore.support.errors import InputError

Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]  # 0: not at all
Small = Annotated[int, Field(ge=1, le=1_000)]
Seed = Annotated[int, Field(ge=0, le=2**31)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
RateOrZero = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]  # 0: not learned
Norm = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def check_value(name: str, value: Any, kind: Any) -> None:
    """InputError for a value outside its range or of another type."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise InputError(f"{name}={value!r}: {error.errors()[0]['msg']}") from None
