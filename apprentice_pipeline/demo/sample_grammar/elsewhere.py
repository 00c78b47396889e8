"""Requests that belong to no kind: small talk, other people's business, the rest of the world.

Phrasings only; see `kind.Kind` for their grammar. Deliberately of many subjects: a model must
learn that this category is whatever the others are not.
"""

from __future__ import annotations

from apprentice_pipeline.demo.sample_grammar.kind import Kind

OTHER = Kind(
    "other",
    """
what is the weather (going to be |)like in {city} on {day}
tell me a joke about {animal}s
can you recommend a good {food} recipe
how tall is the highest mountain in {country}
I am a journalist and would like to interview your founder
are you hiring, I am looking for a job in {city}
would your company sponsor our {sport} club
my {animal} is sick, what should I do
who won the {sport} match between {city} and {city}
please write a poem about {city} in {month}
we are students from {city} and do a survey about software
what time is it in {city}
can you translate good morning into {language}
I just wanted to say that {name} from your team was wonderful
happy new year to all of you from {city}
how do I cook {food} for {n} people
sorry, wrong number, I wanted the dentist in {city}
is {name} working at your company
do you have an office tour in {city}
what is the capital of {country}
we offer search engine optimisation at {amount} a month, interested
I would like to propose a partnership with our agency in {city}
congratulations, you have won {amount}, reply to claim
how many calories are in a plate of {food}
can I bring my {animal} on a train to {city}
please help me with my homework about {country}
which film should I watch with my kids this weekend
do you believe in life on other planets
when does the museum in {city} open
I lost my {animal} near {street}, did anyone see it
what is the best time of year to visit {country}
are you a robot or a person
my grandmother in {city} turned {n}0, could you send her a greeting
how do I say thank you in {language}
could you solve {n} times {n} plus {n}
your radio spot with the {animal} made me laugh
""",
    """
I saw your name in a magazine
my friend {name} told me to ask you
I hope this is the right place
sorry if this is off topic
greetings from {city}
I have always wondered
my children are asking
I like {food} very much
""",
)

KINDS = (OTHER,)
