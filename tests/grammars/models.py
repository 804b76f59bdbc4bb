"""Pydantic models as applications write them, limited so that an output reaches its end."""

from __future__ import annotations

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(max_length=12)]
Text = Annotated[str, Field(max_length=30)]
Small = Annotated[int, Field(ge=0, le=99)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Color(str, Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Person(Strict):
    name: Name
    age: Annotated[int, Field(ge=0, le=130)]
    email: Annotated[str, Field(pattern=r"^[a-z]{1,8}@[a-z]{1,8}\.(com|org)$")] | None = None


class Step(Strict):
    explanation: Text
    output: Name


class MathAnswer(Strict):
    steps: Annotated[list[Step], Field(max_length=2)]
    final_answer: Name


class Address(Strict):
    street: Name
    city: Name
    zip_code: Annotated[str, Field(pattern=r"^\d{5}$")]


class Company(Strict):
    name: Name
    address: Address
    founded: Annotated[int, Field(ge=1800, le=2030)]
    people: Annotated[list[Person], Field(max_length=1)] = []


class Cat(Strict):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(Strict):
    kind: Literal["dog"]
    barks: bool


class Pets(Strict):
    pets: Annotated[list[Annotated[Cat | Dog, Field(discriminator="kind")]], Field(max_length=2)]


class Meeting(Strict):
    title: Name
    when: datetime
    day: date
    room: Literal["A", "B", 3]


class Record(Strict):
    id: UUID
    color: Color
    tags: Annotated[list[Name], Field(max_length=3)]


class Point(Strict):
    x: Annotated[float, Field(ge=-1, le=1)]
    y: Annotated[float, Field(ge=-1, le=1)]


class Polygon(Strict):
    points: Annotated[list[Point], Field(min_length=3, max_length=3)]
    closed: bool = True


class Pair(Strict):
    pair: tuple[Small, Name]


class Scores(Strict):
    scores: dict[Literal["math", "art"], Small]


class Maybe(Strict):
    value: int | None = Field(default=None, ge=0, le=9)
    reason: Name | None


class Leaf(Strict):
    label: Name


class Tree(Strict):
    left: Leaf | None
    right: Leaf | None


class Review(Strict):
    stars: Literal[1, 2, 3, 4, 5]
    text: Text
    recommended: bool


class Sentiment(Strict):
    label: Literal["positive", "negative", "neutral"]
    confidence: Annotated[float, Field(ge=0, le=1)]


class Extraction(Strict):
    people: Annotated[list[Name], Field(max_length=2)]
    places: Annotated[list[Name], Field(max_length=2)]
    dates: Annotated[list[date], Field(max_length=1)]


class Plan(Strict):
    goal: Text
    steps: Annotated[list[Name], Field(min_length=1, max_length=3)]
    done: bool


class Money(Strict):
    amount: Annotated[float, Field(ge=0, le=1000, multiple_of=0.25)]
    currency: Literal["EUR", "USD"]


class Quiz(Strict):
    question: Text
    options: Annotated[list[Name], Field(min_length=2, max_length=2)]
    correct: Annotated[int, Field(ge=0, lt=2)]


class Ticket(Strict):
    key: Annotated[str, Field(pattern=r"^[A-Z]{2,4}-[1-9]\d{0,3}$")]
    state: Literal["open", "closed"]
    assignee: Person | None


class Command(Strict):
    verb: Literal["go", "take", "look"]
    target: Name = ""


class Settings(Strict):
    theme: Color = Color.RED
    volume: Small = 50
    nested: Point | Leaf


MODELS: tuple[type[BaseModel], ...] = (
    *(Person, MathAnswer, Address, Company, Pets, Meeting, Record, Polygon, Pair, Scores, Maybe, Tree, Review),
    *(Sentiment, Extraction, Plan, Money, Quiz, Ticket, Command, Settings),
)
