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
what are your views on the election in {country}
I would like to invite you as a speaker to our conference in {city}
how do I grow tomatoes on a balcony
is there a train strike in {country} on {day}
my neighbour plays the trumpet all night, is that legal
can you suggest a name for our baby {animal}
we found a wallet with your business card in it in {city}
how far is it from {city} to {city} by bike
why is the sky blue
who wrote the national anthem of {country}
could you donate a prize for our school raffle in {city}
I want to learn {language}, where should I begin
the toilet in your lobby in {city} is out of paper
do you sell gift cards for a {sport} shop
book me a table for {n} at a {food} place in {city}
what is the exchange rate in {country}
is it safe to eat {food} during pregnancy
please remind me to call {name} on {day}
sing me a song about {food}
how old is the universe
my car makes a funny noise when I brake
which {sport} shoes are good for flat feet
do I need a visa for {country}
the coffee at your event in {city} was excellent, where is it from
can you find me a flight from {city} to {city}
I am writing a book about {animal}s and look for a publisher
how do I remove red wine from a carpet
please stop parking your van in front of {street}
are your shares traded in {country}
what does my horoscope say for {month}
hello, is anyone there
test message please ignore
asdf asdf just checking this form
we repair roofs in {city} and have a special offer
good evening, do you know a plumber near {street}
my son wants an internship with you in {month}
how long do I boil an egg
can you teach me the rules of {sport}
which {language} dictionary would you buy
I have a question about my pension
who designed your logo, it looks like my {animal}
let me tell you about my holiday in {country}
please forward this to {name} in the marketing department
thanks for the nice chat at the fair in {city}
what is the meaning of life
my doctor prescribed a pill, may I drink milk with it
is it true that {animal}s can swim
can you lend me {amount} until {month}
where did you buy the plants in your {city} showroom
does your building in {city} have a lift for wheelchairs
how do I fold a paper {animal}
we would like to rent out your parking places on {day}
is the marathon in {city} on {day} or on {day}
I dreamt of a {colour} {animal}, what does it mean
which vitamins are in {food}
recommend a hotel in {city} with a pool
the fire alarm test in {city} on {day}, will you attend
can you compare phone companies in {country} for me
how do I tie a tie
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
it rained all week in {city}
you seem to know everything
""",
)

KINDS = (OTHER,)
