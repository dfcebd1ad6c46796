"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (cilium.io/v2) to rules; one module for each part of them."""
