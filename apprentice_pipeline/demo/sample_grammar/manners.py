"""What people wrap around a request: greetings, urgency, thanks, names, and the words of slots.

Words only: none of these says what is wanted.
Names and firms are invented or common first names; addresses and numbers belong to nobody.
"""

from __future__ import annotations

URGENT = """
this is urgent
urgent
we need this solved asap
please treat this as an emergency
this cannot wait
it can't wait any longer
please respond immediately
our whole team is blocked by this
I have a deadline (tonight|this afternoon|in two hours)
this is critical for (us|our business)
I need help right away
top priority please
"""

CALM = """
no rush
no hurry at all
whenever you have a moment
take your time
this is low priority
when you get around to it
it can wait until next week
no hurry, whenever it suits you
no hurry, next week is fine
at your convenience
no pressure
in your own time, no rush
"""

GREETINGS = """
hi
hello
hey
hey there
hi team
good morning
good afternoon
dear support
dear team
hello support team
to whom it may concern
hola
bonjour
guten Tag
ciao
ahoj
namaste
hej
hi {name} here
hello, this is {name}
hi, {name} from {city}
"""

CLOSINGS = """
thanks
thank you
thx
many thanks
thanks in advance
thank you so much
cheers
best regards, {name}
kind regards, {name}
regards, {name}
best, {name}
- {name}
merci d'avance
muchas gracias
danke
grazie mille
obrigado
спасибо
谢谢
ありがとう
شكرا
dziękuję
please advise
hope you can help
looking forward to your answer
sent from {device}
"""

ASIDES = """
I hope you are well
quick question
sorry to bother you
I have been a customer since {month}
me again
not sure who to ask
por favor
s'il vous plaît
bitte
first time writing to you
my colleague {name} asked me to write
I could not find this in the help centre
vale, so
entschuldigung
I use {product} every day
"""

EMOJI = ("🙂", "😕", "🙏", "😡", "😩", "👍", "🤔", "😅", "📦", "💳")

SLOTS: dict[str, tuple[str, ...]] = {
    "product": (
        "Tidepool",
        "Lumenboard",
        "Corvus Desk",
        "Marlo",
        "Fernway Cloud",
        "Quillbox",
        "Hexagram",
        "Pebble CRM",
        "Northbeam",
        "Oktoplan",
        "Sailcloth",
        "Brightledger",
        "Kiteflow",
        "Amberline",
    ),
    "item": (
        "backpack",
        "desk lamp",
        "kettle",
        "headset",
        "rain jacket",
        "keyboard",
        "coffee grinder",
        "yoga mat",
        "monitor stand",
        "water bottle",
        "office chair",
        "bike light",
        "toaster",
        "notebook",
        "camera bag",
        "wool scarf",
        "tent",
        "blender",
        "guitar strap",
        "pillow",
    ),
    "plan": ("Starter", "Team", "Pro", "Business", "Premium", "Plus", "Studio", "Enterprise"),
    "month": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    "day": (
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "the 3rd",
        "the 12th",
        "the 21st",
        "the 28th",
        "5 May",
        "17 June",
        "30 Sept",
        "2 Feb",
        "11/04",
    ),
    "city": (
        "Lisbon",
        "Kraków",
        "Leeds",
        "Osaka",
        "Porto Alegre",
        "Nairobi",
        "Zürich",
        "Toronto",
        "Málaga",
        "Tromsø",
        "Austin",
        "Pune",
        "Lyon",
        "İzmir",
        "Cork",
        "Taipei",
        "Gdańsk",
        "Accra",
    ),
    "country": (
        "Norway",
        "Brazil",
        "Japan",
        "Kenya",
        "Portugal",
        "Canada",
        "Poland",
        "Chile",
        "Vietnam",
        "Iceland",
        "Morocco",
        "Greece",
        "New Zealand",
        "Switzerland",
    ),
    "name": (
        "Olena",
        "Zoë",
        "Søren",
        "Priya",
        "José",
        "Aylin",
        "Tomasz",
        "Wei",
        "Amara",
        "Noa",
        "Liam",
        "Chloé",
        "Олена",
        "李雷",
        "山田",
        "محمد",
        "Αλέξης",
        "נועה",
        "प्रिया",
        "김민준",
        "Þóra",
        "Nguyễn",
        "Bea",
        "Omar",
        "Ingrid",
        "Mateus",
    ),
    "street": (
        "14 Mill Lane",
        "Lindenweg 7",
        "220 Harbour Street",
        "Rua das Flores 31",
        "9 Elm Close",
        "Calle Mayor 18",
        "47 Station Road",
        "Nygata 5",
        "3b Orchard Row",
        "88 Kingfisher Drive",
        "ul. Polna 12",
        "6 rue du Moulin",
    ),
    "colour": ("red", "blue", "green", "black", "white", "grey", "yellow", "purple", "beige"),
    "size": ("small", "medium", "large", "XL", "size 38", "size 42", "60 cm", "90 cm"),
    "carrier": ("DHL", "UPS", "FedEx", "the post", "the courier", "DPD", "GLS"),
    "device": ("iPhone", "Android", "iPad", "my laptop", "Windows 11", "my Mac", "Pixel", "tablet"),
    "browser": ("Firefox", "Chrome", "Safari", "Edge", "Opera"),
    "version": ("2.4", "3.1.0", "5.0.2", "7.12", "11.3", "2024.2", "4.9.1"),
    "page": (
        "dashboard",
        "report view",
        "calendar",
        "inbox",
        "timeline",
        "project list",
        "contact page",
        "overview",
        "settings screen",
        "task board",
    ),
    "code": ("E1042", "ERR_77", "0x80070005", "E-403", "code 51", "ERR_LOCK", "X-19", "fault 12"),
    "endpoint": (
        "/v2/orders",
        "/v1/contacts",
        "the search api",
        "/events",
        "the export api",
        "/v3/users",
        "the graphql endpoint",
        "/v1/messages",
        "the reports api",
    ),
    "records": (
        "contacts",
        "tasks",
        "projects",
        "orders",
        "tickets",
        "reports",
        "notes",
        "messages",
        "customers",
        "time sheets",
    ),
    "tool": (
        "Slack",
        "Notion",
        "Jira",
        "Google Calendar",
        "Outlook",
        "Trello",
        "GitHub",
        "Zapier",
        "Figma",
        "Teams",
    ),
    "animal": ("dog", "cat", "parrot", "hamster", "horse", "turtle", "rabbit", "goat", "penguin"),
    "food": ("lasagne", "ramen", "pierogi", "tacos", "curry", "paella", "falafel", "pancakes"),
    "sport": ("football", "tennis", "handball", "cricket", "basketball", "rugby", "chess"),
    "language": ("Polish", "Japanese", "Swahili", "Portuguese", "Danish", "Korean", "Greek"),
}
