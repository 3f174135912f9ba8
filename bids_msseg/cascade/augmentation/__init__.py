"""The augmentation language: small steps, composed, written as YAML, seeded by the caller.

``sample``
    What a step takes and returns.
``rules``, ``language``, ``catalogue``
    Fields with ranges; steps, containers and programs; reading and writing them.
``geometry``, ``intensity``, ``artefacts``
    The steps, in 3-D.
``standard``
    The plan of fixed form that trainings use unless a recipe brings a program.
"""
