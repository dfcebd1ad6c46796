"""CustomResourceDefinitions: kinds that users bring, served as the built-in ones are.

A definition becomes rows of the registry (`serving`), whose shape, rules, columns and OpenAPI follow from its schema
(`model`). Schemas are interpreted as the JSON that they came as, and only decoded when an object of the kind is first
written: a lab with a dozen definitions that nobody uses pays for their bytes alone. Compiling them into classes was
rejected, because the largest would cost megabytes each.
"""
