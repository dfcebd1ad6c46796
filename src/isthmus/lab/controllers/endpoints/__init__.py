"""What stands behind Services: EndpointSlices, Endpoints, and slices that mirror Endpoints made by hand."""
